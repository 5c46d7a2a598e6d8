"""The bonus that entropy and uncertainty share."""

from __future__ import annotations

import torch
from torch import Tensor


def bounded(advantages: Tensor, signal: Tensor, gain: float, bound: float) -> Tensor:
    """min(gain * signal, |A|/bound) >= 0: [T] advantages, [T] signal >= 0 in nats -> [T]. Nothing is added where A is 0."""
    return torch.minimum(gain * signal, advantages.abs() / bound)
