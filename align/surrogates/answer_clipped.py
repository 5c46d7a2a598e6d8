from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core.credit import Packing, sequence_sum
from align.surrogates import Surrogate
from align.surrogates.clipped import check_clips, clip_formula, clipped


@dataclass(frozen=True)
class AnswerClipped(Surrogate):
    """`clipped` on the ratio of the whole answer, pi(y)/pi_old(y) = exp(sum of log rho): RLOO off-policy, as TRL has it.

    The gradient is that of ratio * sum_t A_t log pi_t, the value stands at the first token alone: made for `reduction: sequence_sum`.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self):
        check_clips(self.clip_low, self.clip_high)

    def formula(self) -> str:
        return clip_formula("ρ_y", self.clip_low, self.clip_high)

    def symbols(self) -> dict[str, str]:
        return {"ρ_y": "π/π_old of the whole answer"}

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        log_ratio = sequence_sum(log_rho.detach(), at) + (log_rho - log_rho.detach())
        loss, cut = clipped(log_ratio, advantages, self.clip_low, self.clip_high)
        return loss - torch.where(at.positions == 0, 0.0, loss.detach()), cut

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return sequence_sum(log_rho, at)
