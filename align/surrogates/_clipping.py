"""The clip that several surrogates share."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core import closed_forms


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


def formula(ratio: str, clip_low: float, clip_high: float) -> str:
    return f"min({ratio} A, clip({ratio}, 1−{clip_low:g}, 1+{clip_high:g}) A)"
