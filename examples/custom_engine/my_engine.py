"""An engine in one file: it reads the whole sequence again for each token, which is slow and short.

`align check ./my_engine.py:MyEngine` holds it to the contract; `engine: "./my_engine.py:MyEngine"` in a recipe generates with it.
"""

from dataclasses import dataclass

import torch

from align.engines import Engine, RunningEngine
from align.types import Episode, Group
from align.weight_sync.flattening import unflatten
from align.weight_sync.layout import Layout


@dataclass(frozen=True, kw_only=True)
class MyEngine(Engine):
    """One forward pass over prompt and answer for each token."""

    def start(self, model_dir, sampling, max_prompt_tokens):
        return MyRunningEngine(model_dir, sampling)


class MyRunningEngine(RunningEngine):
    """A transformers model in float32 on the CPU."""

    def __init__(self, model_dir, sampling):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  (seconds to import)

        from align.vocabulary.words import Words  # noqa: PLC0415

        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.words = Words(model_dir, AutoTokenizer.from_pretrained(model_dir))
        self.layout, self.sampling = Layout.of(self.model), sampling

    def generate(self, prompts, samples, seeds):
        groups = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)  # of this prompt alone, so its company changes nothing
            groups.append(Group(prompt=prompt, episodes=tuple(self.answer(prompt.token_ids, generator) for _ in range(samples))))
        return groups

    @torch.inference_mode()
    def answer(self, prompt_ids, generator):
        ids, logps, ends = [], [], self.words.ends
        while len(ids) < self.sampling.max_tokens and (not ids or ids[-1] not in ends):
            logits = self.words.spelled.logits(self.model(torch.tensor([[*prompt_ids, *ids]])).logits[:, -1])[0]
            logp = torch.log_softmax(logits / self.sampling.temperature, -1)
            ids.append(int(torch.multinomial(logp.exp(), 1, generator=generator)))
            logps.append(logp[ids[-1]])
        return Episode.single_turn(
            token_ids=torch.tensor(ids, dtype=torch.int32).numpy(),  # the end token included
            text=self.words.text.one(ids),
            logp=torch.stack(logps).numpy(),  # float32, nats, after temperature
            version=self.version,
            finished=ids[-1] in ends,
        )

    def load(self, version, weights):
        self.layout.check(weights)  # before the first byte is written: ValueError names what does not fit
        held = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in unflatten(weights):  # read-only views: copy from them
                held[name].copy_(tensor)
        self.version = version
