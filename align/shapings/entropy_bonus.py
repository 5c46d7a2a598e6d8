from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.shapings import Shaping
from align.shapings._bonus import bounded
from align.types import Columns


@dataclass(frozen=True)
class EntropyBonus(Shaping):
    """Advantages rise where pi_old was undecided: `A + min(gain H, |A|/bound)` (Cheng et al. 2506.14758), H detached.

    No entropy regularizer: no gradient flows through H, so a right answer's forks are credited more and a wrong one's blamed less,
    and no sign changes. The paper has gain 0.4 with GRPO, 0.1 with PPO.
    """

    needs = frozenset({"entropy"})

    gain: float = 0.4
    """alpha of the paper: advantage for a nat."""
    bound: float = 2.0
    """kappa of the paper, above 1: the bonus is at most this fraction of |A|."""

    def __post_init__(self):
        if self.gain <= 0 or self.bound <= 1:
            raise ValueError("gain must be positive and bound above 1 (at 1 a bonus can undo the advantage)")

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        return advantages + bounded(advantages, batch.entropy, self.gain, self.bound)
