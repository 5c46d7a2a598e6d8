import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols
from align.surrogates.clipped import check_clips


@dataclass(frozen=True)
class Cispo(Surrogate):
    """-sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi (MiniMax-M1 2506.13585): every token keeps a gradient.

    The paper bounds from above only, which is clip_low = 1; TRL's `epsilon_high` is the bound itself, 1 + clip_high. The value is
    -w A of the clipped weight w, without the log pi, so that it compares with the other surrogates; the gradient is the paper's.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self):
        check_clips(self.clip_low, self.clip_high)

    def formula(self) -> str:
        return f"sg(clip(ρ, 1−{self.clip_low:g}, 1+{self.clip_high:g})) A log π"

    def symbols(self) -> dict[str, str]:
        return token_symbols() | {"sg": "without gradient"}

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        rho = log_rho.detach().exp()
        weight = torch.clamp(rho, 1 - self.clip_low, 1 + self.clip_high)
        return -weight * advantages * (1 + log_rho - log_rho.detach()), weight != rho

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        lowest = math.log1p(-self.clip_low) if self.clip_low < 1 else -math.inf
        return log_rho.clamp(lowest, math.log1p(self.clip_high))
