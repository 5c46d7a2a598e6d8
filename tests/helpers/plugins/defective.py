"""Plugins that conform, one of each kind, and what one mistake makes of them: every check of the kit has its own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from helpers.plugins import objective, starting, talking
from helpers.plugins.changes import add, swap


def source(kind: str, change: Callable[[str], str] = str) -> str:
    return change(textwrap.dedent(GOOD[kind]).lstrip("\n"))


GOOD = (
    {
        "divergence": '''
        class Part:
            """Squared Hellinger distance."""
            power: float = 0.5
            def f(self, log_u):
                return (log_u * self.power).expm1() ** 2
        ''',
        "estimator": '''
        class Part:
            """Sampled, written out."""
            weighted = True
            def value(self, divergence, log_u):
                return divergence.khat(log_u)
        ''',
        "coefficient": '''
        class Part:
            """Doubles where the divergence is large."""
            first: float = 0.1
            def initial_state(self):
                return {"beta": self.first}
            def beta(self, step, state):
                return state["beta"]
            def update(self, state, divergence, rollouts):
                return {"beta": min(state["beta"] * (2.0 if divergence > 1 else 1.0), 10.0)}
        ''',
        "critic": '''
        import torch
        from align.critics import Critic, RunningCritic
        class Head(RunningCritic):
            def __init__(self, policy, power):
                self._policy, self._power = policy, power
                self._head = torch.nn.Linear(policy.head().weight.shape[1], 1)
            def trained(self):
                return (("critic." + n, p) for n, p in self._head.named_parameters())
            def values(self, micro, hidden):
                policy = self._policy
                return self._head(hidden.abs() ** self._power).squeeze(-1)
        class Part(Critic):
            """A quadratic head on the policy's states."""
            power: float = 2.0
            def start(self, policy):
                return Head(policy, self.power)
        ''',
        "weighting": '''
        import torch
        class Part:
            """The second half of an answer weighs more."""
            more: float = 2.0
            def weights(self, batch, name):
                return torch.where(batch.positions * 2 >= batch.lengths[batch.seq_ids], self.more, 1.0)
        ''',
        "regularizer": '''
        from typing import Any
        import torch
        from align.config.nodes import part
        from align.divergences.reverse_kl import ReverseKl
        from align.regularizers import Penalty
        class Part:
            """KL(pi||ref), sampled."""
            coefficient: Any = part("coefficient", 1.0)
            weighting: Any = part("weighting", "uniform")
            divergence = ReverseKl()
            def penalty(self, ctx, name):
                weights = ctx.batch.penalty_weights[name]
                log_u = (ctx.logp.detach() - ctx.batch.ref_logp[name]).clamp(-20, 20)
                rho = ctx.log_rho.exp()
                loss = weights * (rho.detach() * self.divergence.khat(log_u) + (rho - rho.detach()) * log_u)
                return Penalty(value=loss.detach(), loss=loss)
        ''',
        "reward": '''
        class Part:
            """Length."""
            scale: float = 0.01
            def score(self, prompt, response):
                return {"total": self.scale * len(response), "length": float(len(response))}
        ''',
        "task": '''
        from align.tasks import Example
        class Part:
            """Sums."""
            size: int = 20
            def examples(self):
                return [Example(id=f"train-{i}", text=f"{i}+{i}=", answer=str(2 * i)) for i in range(self.size)]
            def suites(self, problems):
                return {"sums": [Example(id=f"eval-{i}", text=f"{i}+1=", answer=str(i + 1)) for i in range(100, 100 + problems)]}
            def judge(self, suite, groups):
                return {"length": sum(len(e.text) for g in groups for e in g.episodes) / len(groups)}
        ''',
        "algorithm": '''
        from typing import Any
        from align.algorithms import Algorithm
        from align.config.nodes import part
        class Part(Algorithm):
            """Policy gradient."""
            reduction: Any = part("reduction", "token")
            def formula(self):
                return "ρ A"
            def __post_init__(self):
                self.check()
            def advantages(self, batch):
                return (batch.rewards - batch.rewards.mean())[batch.seq_ids]
            def loss(self, ctx, advantages):
                return -ctx.log_rho.exp() * advantages, {"ratio/mean": ctx.log_rho.detach().exp()}
        ''',
        "shaping": '''
        class Part:
            """Short answers are worth more."""
            per_token: float = 0.1
            def rewards(self, batch, rewards):
                return rewards - self.per_token * batch.lengths
            def advantages(self, batch, advantages, name):
                return advantages
        ''',
    }
    | objective.GOOD
    | starting.GOOD
    | talking.GOOD
)
"""One method each beyond what its kind must define, at most."""
DEFECTS = (
    {
        ("divergence", "docstring"): swap('"""Squared Hellinger distance."""', "pass"),
        ("divergence", "keys"): add("def __post_init__(self): object.__setattr__(self, 'power', self.power / 2 + 0.2)"),
        ("divergence", "is built"): swap("def f(", "def g("),
        ("divergence", "elementwise"): swap("** 2", "** 2 - log_u.mean() * 1e-9"),
        ("divergence", "f(1) = 0"): swap("** 2", "** 2 + 1"),
        ("divergence", "convex"): swap("return", "return -"),
        ("divergence", "not negative"): add("def khat(self, log_u): return -self.bregman(log_u) * (-log_u).exp()"),
        ("divergence", "finite"): swap("(log_u * self.power).expm1() ** 2", "(7 * log_u).exp() - 1"),
        ("divergence", "f_prime"): add("def f_prime(self, log_u): return (log_u / 2).exp() * (log_u / 2).expm1()"),
        ("divergence", "grad_weight"): add("""
        def f(self, log_u): return (log_u / 2).expm1() ** 2 + log_u.expm1()
        def grad_weight(self, log_u): return self.f_prime(log_u)
        """),
        ("divergence", "of state"): swap(
            "class Part:",
            "from align.divergences import StateFunctional\nclass Part(StateFunctional):",
            "def f(self, log_u):",
            "def of_state(self, logp, ref_logp):",
            "(log_u * self.power).expm1() ** 2",
            "(self.power * (logp.exp() - ref_logp.exp()) ** 2).sum(-1) + logp.mean() - logp.mean().detach() + logp.detach().mean()",
        ),
        ("divergence", "bregman"): add("""
        def f(self, log_u): return (log_u / 2).expm1() ** 2 + log_u.expm1()
        def bregman(self, log_u): return self.f(log_u).abs()
        """),
        ("divergence", "khat"): add("def khat(self, log_u): return self.bregman(log_u)"),
        ("divergence", "digits"): add("def khat(self, log_u): return (-log_u).exp() - 2 * (-log_u / 2).exp() + 1"),
        ("divergence", "full_support"): swap("(log_u * self.power).expm1() ** 2", "log_u.expm1() ** 2"),
        ("divergence", "transform"): add("def transform(self, mean): return mean ** 2 + mean, 1 + mean"),
        ("divergence", "gradient"): add("def grad_weight(self, log_u): return log_u"),
        ("estimator", "elementwise"): swap("divergence.khat(log_u)", "divergence.khat(log_u) - log_u.mean()"),
        ("estimator", "finite"): swap("divergence.khat(log_u)", "(6 * log_u).expm1()"),
        ("estimator", "digits"): swap("divergence.khat(log_u)", "(-log_u).exp() - 1 + log_u"),
        ("estimator", "gradient"): swap("weighted = True", "weighted = False"),
        ("estimator", "outcomes"): add("""
        def outcomes(self, logp, ref_logp):
            kept = logp.topk(3, -1).indices
            return logp.gather(-1, kept), ref_logp.gather(-1, kept)
        """),
        ("coefficient", "beta"): add("def beta(self, step, state): return state['beta'] - step / 100"),
        ("coefficient", "updates"): swap('min(state["beta"] * (2.0 if divergence > 1 else 1.0), 10.0)', 'state["beta"] * divergence'),
        ("coefficient", "pure"): swap('return {"beta": min(', 'state["beta"] += 0.01; return {"beta": min('),
        ("coefficient", "multipliers"): add("def multipliers(self, batch, name, state): return [1.0] * len(set(batch.prompt_ids))"),
        ("coefficient", "state"): swap(
            'return {"beta": self.first}', 'return {"beta": self.first, 1: 0.0}', 'return {"beta": min(', 'return {**state, "beta": min('
        ),
        ("critic", "values"): swap(".squeeze(-1)", ".squeeze(-1).double()"),
        ("critic", "trained"): swap(
            "torch.nn.Linear(policy.head().weight.shape[1], 1)",
            "torch.nn.Linear(*policy.head().weight.T.shape)",
            ".squeeze(-1)",
            ".mean(-1)",
            "self._head.named_parameters()",
            "[('w', self._policy.head().weight)]",
        ),
        ("critic", "learns"): swap("self._head(hidden", "self._head.requires_grad_(False)(hidden"),
        ("critic", "before the token"): swap(
            "self._head(hidden", "self._head(policy.hidden(__import__('dataclasses').replace(micro, columns=micro.columns + 1))"
        ),
        ("critic", "any split"): swap(".squeeze(-1)", ".squeeze(-1) - hidden.mean()"),
        ("critic", "repeats"): swap("self._head(hidden", "torch.rand(()) * self._head(hidden"),
        ("weighting", "weights"): swap("return torch.where", "return -torch.where"),
        ("weighting", "what it needs"): swap("return torch.where", "return batch.advantages.exp() * torch.where"),
        ("weighting", "its own reference"): swap("return torch.where", "return next(iter(batch.ref_logp.values())).exp() * torch.where"),
        ("weighting", "repeats"): swap("return torch.where", "return torch.rand(len(batch.seq_ids)) * torch.where"),
        ("weighting", "leaves the batch alone"): swap("return torch.where", "batch.positions.clamp_(max=1); return torch.where"),
        ("weighting", "tokens, not padding"): swap(
            "return torch.where", "return (batch.input_ids.sum(1) < 0)[batch.seq_ids] * torch.where"
        ),
        ("weighting", "one answer"): swap(
            "return torch.where", "return batch.lengths[batch.seq_ids].float().log().reciprocal() * torch.where"
        ),
        ("regularizer", "penalty"): swap("value=loss.detach()", "value=loss"),
        ("regularizer", "finite"): swap(".clamp(-20, 20)", "; log_u = log_u + 0 * (2 * log_u).exp()"),
        ("regularizer", "digits"): swap("rho = ctx.log_rho.exp()", "rho = ctx.log_rho.exp() * (1 + torch.finfo(log_u.dtype).eps * 1e5)"),
        ("regularizer", "any split"): swap("return Penalty", "loss = loss - loss.mean(); return Penalty"),
        ("regularizer", "weighed"): swap("weights = ctx.batch.penalty_weights[name]", "weights = 1"),
        ("regularizer", "its own entries"): swap("ctx.batch.ref_logp[name]", "next(iter(ctx.batch.ref_logp.values()))"),
        ("regularizer", "repeats"): swap("return Penalty", "loss = loss * (1 + torch.rand(())); return Penalty"),
        ("regularizer", "gradient"): swap("(rho - rho.detach()) * log_u", "(ctx.logp - ctx.logp.detach())"),
        ("reward", "a number"): swap("return {", "return None if not response else {"),
        ("reward", "soon"): add("""
        def score(self, prompt, response):
            while response.startswith("(("):
                pass
            return 1.0
        """),
        ("reward", "repeats"): swap("self.scale * len(response)", "__import__('time').perf_counter()"),
        ("reward", "runs no answer"): add("""
        def score(self, prompt, response):
            try:
                return float(eval(response) == prompt.fields["target"])
            except Exception:
                return 0.0
        """),
        ("reward", "leaves the prompt alone"): swap("return {", "prompt.fields['seen'] = prompt.fields.get('seen', 0) + 1; return {"),
        ("reward", "together"): add("""
        def score_groups(self, groups):
            return [self.score(g.prompt, e.text) for g in groups for e in reversed(g.episodes)]
        """),
        ("task", "examples"): swap('id=f"train-{i}"', 'id=f"train-{i // 2}"'),
        ("task", "repeats"): swap("range(self.size)]", "__import__('random').sample(range(50), self.size)]"),
        ("task", "suites"): swap("range(100, 100 + problems)", "range(100, 101 + problems)"),
        ("task", "held out"): swap('text=f"{i}+1="', 'text=f"{i - 95}+{i - 95}="'),
        ("task", "judge"): add("def judge(self, suite, groups): return {'length': float('nan')}"),
        ("task", "tokenizer"): add("""
        def tokenizer(self):
            from align.tasks.countdown import Countdown
            found = Countdown().tokenizer()
            found.pad_token = None
            return found
        """),
        ("algorithm", "keys"): swap('reduction: Any = part("reduction", "token")', "reduction: str = 'mean'", "self.check()", "pass"),
        ("algorithm", "advantages"): swap("batch.rewards - batch.rewards.mean()", "batch.rewards / batch.rewards.std()"),
        ("algorithm", "loss"): swap("-ctx.log_rho.exp()", "-ctx.log_rho.detach().exp()"),
        ("algorithm", "direction"): swap("-ctx.log_rho.exp()", "ctx.log_rho.exp()"),
        ("algorithm", "any split"): swap("-ctx.log_rho.exp() * advantages", "-ctx.log_rho.exp() * (advantages - ctx.logp.detach().mean())"),
        ("algorithm", "targets"): add("def targets(self, batch): return batch.rewards[batch.seq_ids]"),
        ("algorithm", "beta"): add("""
        samples, ranks, links = False, True, True
        def advantages(self, batch):
            return None
        def loss(self, ctx, advantages):
            best = ctx.batch.group_ids.diff(prepend=ctx.batch.group_ids[:1] - 1) > 0
            return (ctx.link.scores * (~best * 1.0 - best * 1.0))[ctx.batch.seq_ids] * (ctx.batch.positions == 0), {}
        """),
        ("algorithm", "measures"): add("def measures(self, batch): return {'reward': batch.rewards.mean()}"),
        ("algorithm", "state"): add("def update_state(self, state, batch): return {**state, 'seen': 1}"),
        ("algorithm", "explained"): add("def formula(self): return None"),
        ("shaping", "shapes"): swap("return advantages", "return advantages[:3]"),
        ("coefficient", "what it needs"): add("def multipliers(self, batch, name, state): return 1 + 0 * batch.rewards"),
        ("shaping", "what it needs"): add("def metrics(self, batch, name): return {'least': batch.rewards.min().item()}"),
        ("shaping", "repeats"): swap("return rewards - ", "return __import__('torch').rand(len(rewards)) - "),
        ("shaping", "leaves the batch alone"): add("def rewards(self, batch, rewards): return rewards.sub_(1)"),
        ("shaping", "other prompts"): add("def other_context(self, batch): return batch"),
        ("shaping", "metrics"): add("def metrics(self, batch, name): return {'longest': batch.lengths.max()}"),
    }
    | objective.DEFECTS
    | starting.DEFECTS
    | talking.DEFECTS
)
"""By kind and the check that must find it."""
