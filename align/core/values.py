"""Losses of a critic, and how well it explains the returns. Per token, elementwise; gradients flow through `values` alone."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core import closed_forms


def clipped_squared(
    values: Float[Tensor, "T"], old_values: Float[Tensor, "T"], returns: Float[Tensor, "T"], clip: float
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)/2 (PPO's reference code; TRL's `cliprange_value`).

    Returns the loss and where the clip cut the gradient: V has moved towards R by more than `clip`.
    """
    plain = (values - returns).square()
    bounded = (old_values + (values - old_values).clamp(-clip, clip) - returns).square().detach()
    cut = ((values - old_values).abs() > clip) & (bounded > plain)
    return 0.5 * torch.where(cut, bounded, plain), cut.detach()


def itakura_saito(values: Float[Tensor, "T"], targets: Float[Tensor, "T"], alpha: float, clamp: float = 10.0) -> Float[Tensor, "T"]:
    """(e^z - z - 1)/alpha^2 with z = alpha (V - target), the risk-averse value loss of Udovichenko et al. 2505.16925.

    Its minimiser is the certainty equivalent V = -(1/alpha) log E e^(-alpha X) of the targets X: below their mean for alpha > 0
    (risk-averse), above it for alpha < 0; alpha = 0 is the limit (V - X)^2/2. The gradient is (e^z - 1)/alpha. Beyond z = `clamp` the
    loss goes on along its tangent, so that the value farthest off keeps a gradient, and a bounded one.
    """
    difference = (values - targets).detach()
    if alpha == 0:
        loss, slope = 0.5 * difference.square(), difference
    else:
        z = alpha * difference
        inner = z.clamp_max(clamp)
        loss = (closed_forms.power_khat(-inner, 0.0) + (z - inner) * math.expm1(clamp)) / alpha**2
        slope = torch.expm1(inner) / alpha
    # The gradient is given, not derived: autograd would take it as (e^z) - 1, which loses its digits near z = 0.
    return loss + slope * (values - values.detach())


@torch.no_grad()
def explained_variance(values: Float[Tensor, "T"], returns: Float[Tensor, "T"]) -> Float[Tensor, ""]:
    """1 - Var(R - V)/Var(R): 1 for a perfect critic, 0 for one that predicts the mean. NaN where all returns are equal."""
    variance = returns.var(correction=0)
    return torch.where(variance > 0, 1 - (returns - values).var(correction=0) / variance, torch.nan)
