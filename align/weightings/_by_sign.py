"""A weight for each sign."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor


def by_sign(x: Float[Tensor, "*shape"], positive: float, negative: float, zero: float) -> Float32[Tensor, "*shape"]:
    """Elementwise."""
    weights = torch.full(x.shape, float(zero))
    weights[x > 0] = positive
    weights[x < 0] = negative
    return weights


def check(**weights: float) -> None:
    """Raises ValueError for weights that are none, or that do not tell the signs apart."""
    for key, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{key} must be >= 0, not {value}: a negative weight drives the policy away")
    if len(set(weights.values())) == 1:
        raise ValueError(f"{', '.join(weights)} are equal: that is weighting: uniform and another coefficient")
