from dataclasses import dataclass, fields
from itertools import chain

import torch
from torch import Tensor

from align.algorithms import Algorithm, known
from align.core import advantages as estimates
from align.core import surrogates
from align.core.credit import Packing
from align.describe import summary
from align.types import TokenBatch, TokenContext

CLIPS = ("clip_low", "clip_high")
NUMBERS = frozenset({*CLIPS, *chain.from_iterable(surrogates.OWN.values())})
"""Keys that not every surrogate reads."""


@dataclass(frozen=True)
class Grpo(Algorithm):
    """Group-relative policy optimisation (Shao et al. 2402.03300): the group is the baseline. Advantage x surrogate x reduction.

    Each of the three is a function that a key names, so that its relatives are recipes: Dr. GRPO is `advantage: group_centred,
    reduction: constant`, RLOO `advantage: leave_one_out, surrogate: reinforce`, DAPO `clip_high: 0.28, reduction: token`. The KL term of
    the paper is a regularizer here: `{estimator: k3, allow_biased: true}` is the published one.
    """

    compares = True  # as every function of core/advantages.py does

    advantage: str = "group_standardised"
    """A function of core/advantages.py."""
    surrogate: str = "clipped"
    """A function of core/surrogates.py."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    """Above clip_low: DAPO's clip-higher."""
    ceiling: float = 3.0
    """Of `dual_clip`: where A < 0 the loss is at most -ceiling A."""
    temperature: float = 1.0
    """Of `sapo`, where A > 0: the higher, the sooner a token far from rho = 1 loses its gradient."""
    temperature_negative: float = 1.05
    """Of `sapo`, where A < 0."""
    reduction: str = "token"
    """A function of core/reductions.py."""
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        known("advantage", self.advantage, estimates)
        known("surrogate", self.surrogate, surrogates)
        if not (0 < self.clip_low <= 1 and self.clip_high > 0):
            raise ValueError("clip_low must lie in (0, 1] and clip_high must be positive")
        if self.temperature <= 0 or self.temperature_negative <= 0:
            raise ValueError("temperature and temperature_negative must be positive")
        if self.surrogate == "dual_clip" and self.ceiling <= 1 + self.clip_high:
            raise ValueError(f"ceiling must be above 1 + clip_high, {1 + self.clip_high:g}, not {self.ceiling:g}: the clip would never be "
                             "reached where A < 0")
        read = (*(() if self.surrogate in surrogates.UNBOUNDED else CLIPS), *self._own())
        for f in fields(self):
            if f.name in NUMBERS.difference(read) and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name} changes nothing: surrogate: {self.surrogate} reads {', '.join(read) or 'no number'}")

    def _own(self) -> dict[str, float]:
        """The numbers that only this surrogate reads."""
        return {key: getattr(self, key) for key in surrogates.OWN.get(self.surrogate, ())}

    def advantages(self, batch: TokenBatch) -> Tensor:
        return getattr(estimates, self.advantage)(batch.rewards, batch.group_ids)[batch.seq_ids]

    def formula(self) -> str:
        if self.surrogate == "clipped":
            return f"min(ρ A, clip(ρ, 1−{self.clip_low:g}, 1+{self.clip_high:g}) A)"
        return f"{self.surrogate}(ρ, A)"

    def symbols(self) -> dict[str, str]:
        named = {} if self.surrogate == "clipped" else {self.surrogate: "minus " + summary(getattr(surrogates, self.surrogate))}
        return {"A": summary(getattr(estimates, self.advantage)), "ρ": "π/π_old of the token", **named}

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        at = Packing(ctx.batch.seq_ids, ctx.batch.positions)
        loss, cut = getattr(surrogates, self.surrogate)(ctx.log_rho, advantages, at, self.clip_low, self.clip_high, **self._own())
        return loss, {"ratio/clipped": cut.float(), "ratio/mean": torch.exp(ctx.log_rho.detach())}
