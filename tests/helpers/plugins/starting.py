"""Parts that start an object of their own (references, engines, writers), and what one mistake makes of them (see defective.py)."""

from __future__ import annotations

from helpers.plugins.changes import add, swap

GOOD = {
    "reference": '''
        from align.references import Reference, RunningReference
        class Copy(RunningReference):
            def __init__(self, policy, every):
                super().__init__(policy)
                self._every = every
                self._take()
            def parameters(self):
                return self._copy
            def after_step(self, step):
                if step % self._every == 0:
                    self._take()
                    self.version += 1
            def state_dict(self):
                return self._copy
            def load_state_dict(self, state):
                self._copy = {name: state[name] for name in self._copy}
            def _take(self):
                self._copy = {n: p.detach().clone() for n, p in self.policy.trained()}
        class Part(Reference):
            """A copy taken anew now and then."""
            changes = True
            every: int = 2
            def start(self, policy):
                return Copy(policy, self.every)
        ''',
    "engine": '''
        import torch
        from align.engines.transformers import RunningTransformers, Transformers
        class Part(Transformers):
            """As it comes."""
            def start(self, model_dir, sampling, max_prompt_tokens):
                return Running(self, model_dir, sampling, max_prompt_tokens)
        class Running(RunningTransformers):
            def generate(self, prompts, samples, seeds):
                return super().generate(prompts, samples, seeds)
            def load(self, version, weights):
                super().load(version, weights)
        ''',
    "writer": '''
        from align.writers import RunningWriter
        class Lines(RunningWriter):
            def __init__(self, folder, recipe):
                self.file = (folder / "lines.tsv").open("a")
            def write(self, step, metrics):
                for name, value in metrics.items():
                    self.file.write(f"{step}\\t{name}\\t{value:g}\\n")
            def close(self, finished):
                self.file.close()
        class Part:
            """Tab-separated lines."""
            def open(self, folder, run, recipe, done):
                return Lines(folder, recipe)
        ''',
}
DEFECTS = {
    ("writer", "refuse"): add("def refuse(self, setting): return False"),
    ("writer", "any number"): swap("{value:g}", "{round(value)}"),
    ("writer", "goes on"): swap('open("a")', 'open("x")'),
    ("writer", "leaves what it is given alone"): swap(
        "for name, value in metrics.items():", "while metrics:", "self.file.write", "name, value = metrics.popitem(); self.file.write"
    ),
    ("writer", "no random numbers"): swap("self.file = ", "self.id = __import__('random').random(); self.file = "),
    ("reference", "scores"): swap(
        "    def parameters(self):",
        """\
    def hidden(self, micro):
        return self.policy.hidden(micro, self._copy) * float('nan')
    def parameters(self):""",
    ),
    ("reference", "starts at the policy"): swap("p.detach().clone()", "p.detach() * 1.1"),
    ("reference", "scored once"): swap("p.detach().clone()", "p.detach()"),
    ("reference", "version"): swap("self.version += 1", "pass"),
    ("reference", "resumes"): swap("self._copy = {name: state[name] for name in self._copy}", "pass"),
    ("reference", "runs apart"): swap("self._copy", "Copy._copy"),
    ("reference", "known"): swap(
        "    def parameters(self):",
        """\
    def known(self, micro):
        return -1.0 - micro.positions
    def parameters(self):""",
    ),
    ("reference", "refuse"): add("def refuse(self, setting): return setting.absent"),
    ("engine", "log-probs"): add("""
        def generate(self, prompts, samples, seeds):
            found = super().generate(prompts, samples, seeds)
            found[0].episodes[0].sampler_logp[0] += 1e-3
            return found
        """),
    ("engine", "episodes"): add("def generate(self, prompts, samples, seeds): return super().generate(prompts, samples, seeds)[::-1]"),
    ("engine", "ids without a token"): add("""
        def __init__(self, *args):
            super().__init__(*args)
            self.words.spelled.logits = lambda logits: logits
            self._is_end = torch.nn.functional.pad(self._is_end, (0, 99))
        """),
    ("engine", "seeds"): add("""
        def generate(self, prompts, samples, seeds):
            self.calls = getattr(self, "calls", 0) + 1
            return super().generate(prompts, samples, [seed + self.calls for seed in seeds])
        """),
    ("engine", "samples"): add("""
        def generate(self, prompts, samples, seeds):
            return super().generate(prompts, samples, [0] * len(prompts))
        """),
    ("engine", "company"): add("""
        def generate(self, prompts, samples, seeds):
            return super().generate(prompts, samples, [seed + place for place, seed in enumerate(seeds)])
        """),
    ("engine", "units"): swap(
        "    def start(",
        """\
    def units(self, lengths, samples):
        return super().units(lengths, samples)[1:]
    def start(""",
    ),
    ("engine", "load"): add("""
        def load(self, version, weights):
            self._layout.check(weights)
            self.version = version
        """),
    ("engine", "wrong weights"): add("""
        def load(self, version, weights):
            from align.weight_sync.flattening import unpack
            for name, tensor in unpack(weights):
                if name in self._tensors:
                    self._tensors[name][: len(tensor)] = tensor
            self.version = version
        """),
    ("engine", "held-out answers"): add(
        "def generate_held_out(self, p, n, s, drawing): return super().generate_held_out(p, n, s, type(drawing)(temperature=0.7))"
    ),
    ("engine", "nothing to do"): add("""
        def generate(self, prompts, samples, seeds):
            return super().generate(prompts or [None], samples, seeds or [0])
        """),
}
