from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import suffix_sum
from align.shapings import Shaping
from align.types import Columns

CREDITS = ("local", "summed")


@dataclass(frozen=True)
class Munchausen(Shaping):
    """Advantages with the behaviour policy's scaled log-prob, `alpha clip(tau ln'_q pi_old(y_t), floor, 0)` (Zhu et al. 2301.11476).

    `ln'_q x = (x^(q-1) - 1)/(q - 1)`, at q = 1 the logarithm: Munchausen RL. There, with an entropy bonus of weight tau beside it
    (and nothing clipped), maximising `E_pi[Q + alpha tau log pi_old] + tau H(pi)` is maximising
    `E_pi[Q] - alpha tau KL(pi||pi_old) + (1 - alpha) tau H(pi)`: an implicit proximal term. Without that bonus it lowers the entropy.
    The use with language models is our analogue: the paper's agents learn Q.
    """

    needs = frozenset({"old_logp"})

    alpha: float = 0.9
    tau: float = 0.03
    """Nats to advantage."""
    floor: float = -1.0
    """l_0 of the paper: the least that `tau ln'_q` counts as."""
    q: float = 1.0
    credit: str = "local"
    """`local`: the bonus is the token's own. `summed`: it is a reward, which every token before it also answers for."""

    def __post_init__(self):
        if not 0 < self.alpha <= 1 or self.tau <= 0 or self.floor >= 0 or self.q <= 0:
            raise ValueError("alpha must lie in (0, 1], tau and q must be positive, floor negative")
        if self.credit not in CREDITS:
            raise ValueError(f"credit must be one of {', '.join(CREDITS)}, not {self.credit!r}")

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        logp = batch.old_logp
        logarithm = logp if self.q == 1 else torch.expm1((self.q - 1) * logp) / (self.q - 1)
        bonus = self.alpha * (self.tau * logarithm).clamp(self.floor, 0)
        return advantages + bonus + (suffix_sum(bonus, batch.seq_ids, batch.positions) if self.credit == "summed" else 0)
