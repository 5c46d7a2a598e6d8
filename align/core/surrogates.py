"""Surrogates: losses whose gradient is a policy gradient. Per token, [T] -> [T], to be minimised."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(log_rho: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO 1707.06347, equation 7; two bounds: DAPO 2503.14476).

    Args: log_rho = log pi/pi_old, differentiable; advantages, detached. Returns the loss and whether the clip cut the gradient (bool [T]).
    """
    rho = log_rho.exp()
    plain = rho * advantages
    bounded = rho.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(plain, bounded), (bounded < plain).detach()
