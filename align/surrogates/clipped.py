from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core import closed_forms
from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols


@dataclass(frozen=True)
class Clipped(Surrogate):
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) (PPO 1707.06347, equation 7; two bounds: DAPO 2503.14476)."""

    clip_low: float = 0.2
    """1 bounds from above only."""
    clip_high: float = 0.2
    """Above clip_low: DAPO's clip-higher."""

    def __post_init__(self):
        check_clips(self.clip_low, self.clip_high)

    def formula(self) -> str:
        return clip_formula("ρ", self.clip_low, self.clip_high)

    def symbols(self) -> dict[str, str]:
        return token_symbols()

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        return clipped(log_rho, advantages, self.clip_low, self.clip_high)

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return log_rho


def check_clips(clip_low: float, clip_high: float) -> None:
    """Raises ValueError for bounds of a ratio, 1 - clip_low and 1 + clip_high, that bound none."""
    if not (0 < clip_low <= 1 and clip_high > 0):
        raise ValueError(f"clip_low must lie in (0, 1] and clip_high must be positive, not {clip_low:g} and {clip_high:g}")


def clipped(
    log_ratio: Float[Tensor, "T"], advantages: Float[Tensor, "T"], clip_low: float, clip_high: float
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), and where the bound cut the gradient."""
    ratio = closed_forms.ratio_of(log_ratio)
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(plain, bounded), (bounded < plain).detach()


def clip_formula(ratio: str, clip_low: float, clip_high: float) -> str:
    return f"min({ratio} A, clip({ratio}, 1−{clip_low:g}, 1+{clip_high:g}) A)"
