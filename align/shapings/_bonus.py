"""The bonus that entropy and uncertainty share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def bounded(advantages: Float[Tensor, "T"], signal: Float[Tensor, "T"], gain: float, bound: float) -> Float[Tensor, "T"]:
    """min(gain * signal, |A|/bound) >= 0, the signal >= 0 in nats. Nothing is added where A is 0."""
    return torch.minimum(gain * signal, advantages.abs() / bound)
