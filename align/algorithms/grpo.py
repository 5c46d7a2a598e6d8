from dataclasses import dataclass

import torch
from torch import Tensor

from align.algorithms import Algorithm
from align.core import advantages as estimate
from align.core.surrogates import clipped
from align.describe import summary
from align.types import TokenBatch, TokenContext

ADVANTAGES = {"group": estimate.group_standardised, "batch": estimate.batch_standardised, "none": estimate.group_centred}


@dataclass(frozen=True)
class Grpo(Algorithm):
    """Group-relative policy optimisation (Shao et al. 2402.03300): clipped surrogate, the group's mean reward as baseline.

    The KL term of the paper is a regularizer here: `{estimator: k3, allow_biased: true}` is the published one.
    """

    normalize: str = "group"
    """What divides the centred reward: the standard deviation of its `group`, of the `batch`, or `none` (Dr. GRPO)."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    """Above clip_low: DAPO's clip-higher."""
    reduction: str = "token"
    """`token`, `sequence` or `constant`: see core/reductions.py."""
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if self.normalize not in ADVANTAGES:
            raise ValueError(f"normalize must be one of {', '.join(ADVANTAGES)}, not {self.normalize!r}")
        if not (0 < self.clip_low < 1 and self.clip_high > 0):
            raise ValueError("clip_low must lie in (0, 1) and clip_high must be positive")

    def advantages(self, batch: TokenBatch) -> Tensor:
        return ADVANTAGES[self.normalize](batch.rewards, batch.group_ids)[batch.seq_ids]

    def formula(self) -> str:
        return f"min(ρ A, clip(ρ, 1−{self.clip_low:g}, 1+{self.clip_high:g}) A)"

    def symbols(self) -> dict[str, str]:
        return {"A": summary(ADVANTAGES[self.normalize]), "ρ": "π/π_old of the token"}

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, cut = clipped(ctx.log_rho, advantages, self.clip_low, self.clip_high)
        return loss, {"ratio/clipped": cut.float(), "ratio/mean": torch.exp(ctx.log_rho.detach())}
