from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.core.credit import Packing, bounded, log_weight
from align.shapings import Shaping
from align.types import Columns

LEVELS = {"token": "local", "sequence": "sequence"}


@dataclass(frozen=True)
class Importance(Shaping):
    """The policy term weighed by the mismatch of learner and engine, pi_old/mu, truncated (TIS) or masked (MIS) beyond a cap.

    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; cap 2 in verl, 3 in TRL. The weight is
    detached and multiplies the advantage, so the surrogate keeps its own pi/pi_old. A penalty weighs its samples itself:
    `ratio_to: sampler`. Worth its forward pass where the engine computes in another precision, or rollouts are stale.
    """

    needs = frozenset({"old_logp"})

    level: str = "token"
    """`token`: each token's own ratio. `sequence`: their product over the answer, unbiased below the cap and far more variable."""
    cap: float = 2.0
    beyond_cap: str = "truncate"
    """`truncate` a larger weight to the cap, or `mask` it to 0."""

    def __post_init__(self):
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {self.level!r}")
        if self.beyond_cap not in ("truncate", "mask"):
            raise ValueError(f"beyond_cap must be truncate or mask, not {self.beyond_cap!r}")
        if self.cap <= 1:
            raise ValueError(f"cap must be above 1, the weight of a sample of the learner's own policy, not {self.cap}")

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        return bounded(self._log_weight(batch), self.cap, masks=self.beyond_cap == "mask").rho * advantages

    def metrics(self, batch: Columns, name: str) -> dict[str, float]:
        """Before the cap: afterwards the outliers would not show."""
        weight = self._log_weight(batch).exp()
        return {
            "weight": weight.mean().item(),
            "weight/largest": weight.max().item(),
            "share/capped": (weight > self.cap).float().mean().item(),
        }

    def _log_weight(self, batch: Columns) -> Float[Tensor, "T"]:
        assert batch.sampler_logp is not None  # a shaping is of rollouts, which an engine drew
        return log_weight(LEVELS[self.level], batch.old_logp - batch.sampler_logp, Packing(batch.seq_ids, batch.positions))
