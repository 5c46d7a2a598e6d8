from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core.credit import Packing, sequence_sum
from align.surrogates import Surrogate
from align.surrogates.clipped import check_clips, clip_formula, clipped


@dataclass(frozen=True)
class SequenceClipped(Surrogate):
    """`clipped` on s = exp(mean of log rho over the answer) (GSPO 2507.18071; bounds 3e-4 and 4e-4).

    GSPO-token, with an advantage for each token: the value is that of s, the gradient of a token its own share of it.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self):
        check_clips(self.clip_low, self.clip_high)

    def formula(self) -> str:
        return clip_formula("s", self.clip_low, self.clip_high)

    def symbols(self) -> dict[str, str]:
        return {"s": "exp of the mean of log π/π_old over the answer"}

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        log_ratio = self.effective_log_ratio(log_rho.detach(), at) + (log_rho - log_rho.detach())
        return clipped(log_ratio, advantages, self.clip_low, self.clip_high)

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return sequence_sum(log_rho, at) / sequence_sum(torch.ones_like(log_rho), at)
