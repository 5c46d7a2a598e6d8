"""Differences written so that they keep their digits near u = 1 and their range far from it.

Elementwise in `x = log u` (nats, any floating type), differentiable; the relative error is a few roundings, and the
rounding of the exponent where a power of u is large. Where a power of u would overflow, x stops growing (`within`): the value stays at
about 1e37 in float32 with its sign, and its derivative there is 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

NEAR = 1 / 8
SPARE = 1.2
"""Nats between the largest power of u and the largest number of its type: room for a sum."""


def within(x: Float[Tensor, "*shape"], *, below: float = 0.0, above: float = 0.0, factor: float = 1.0) -> Float[Tensor, "*shape"]:
    """x, no farther than where factor e^(-below x) and factor e^(above x) are finite; a rate of 0 does not limit its side."""
    reach = math.log(torch.finfo(x.dtype).max) - SPARE - math.log(max(factor, 1.0))
    return x.clamp(-reach / below if below else None, reach / above if above else None) if below or above else x


FACTOR = 300.0
"""Of an exponential beside which log u stands: its largest value in float32, twice squared, and room for a sum."""


def ratio_of(log_ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """e^log_ratio; beyond what its type holds (87.5 nats in float32) the largest ratio, with the derivative it has there."""
    at = within(log_ratio, above=1.0)
    ratio = torch.exp(at)
    return ratio + torch.where(log_ratio > at, ratio.detach() * (log_ratio - log_ratio.detach()), 0.0)


def power_slope(x: Float[Tensor, "*shape"], power: float) -> Float[Tensor, "*shape"]:
    """(u^power - 1)/power, and log u at power 0: `grad_weight` of the power family, f'' (u) = u^(power - 1)."""
    return _slope(within(x, below=max(-power, 0.0), above=max(power, 0.0), factor=_inverse(power)), power)


def power_khat(x: Float[Tensor, "*shape"], power: float) -> Float[Tensor, "*shape"]:
    """khat of the power family, (u^p - (p + 1) + p/u)/(p (p + 1)) >= 0: p = 0 is reverse KL's, p = -1 forward KL's.

    float32 holds it for log u > -81/max(1, -p) and, p > 0, log u < 87/p.
    """
    largest = min(1 / abs(1 + power), FACTOR) if power != -1 else FACTOR
    # At infinity on one side, two infinite terms would leave NaN.
    x = within(within(x, below=max(1.0, -power), factor=largest), above=max(power, 0.0), factor=_inverse(power * (1 + power)))
    last = 11 if torch.finfo(x.dtype).bits == 64 else 6
    # sum_n g_n (-x)^n/n! with g_n = 1 + a + ... + a^(n-2), a = -p: no difference is left, at the limits either.
    terms = [sum((-power) ** k for k in range(n - 1)) / math.factorial(n) for n in range(2, last + 1)]
    series, minus_x = terms.pop(), -x
    while terms:
        series = series * minus_x + terms.pop()
    if power >= -0.5:
        direct = (_slope(x, power) + torch.expm1(minus_x)) / (1 + power)
    else:
        # Divided by 1 + p the form above would lose digits as p -> -1; the exponents are split so that u -> inf does not overflow.
        direct = (torch.expm1(minus_x) - torch.exp(max(power, -1.0) * x) * _slope(minus_x, abs(1 + power))) / power
    return torch.where(x.abs() < NEAR / max(1.0, abs(power)), series * x * x, direct)


def _slope(x: Float[Tensor, "*shape"], power: float) -> Float[Tensor, "*shape"]:
    return torch.expm1(power * x) / power if power else x


def _inverse(x: float) -> float:
    return 1 / abs(x) if x else 1.0


def power_bregman(x: Float[Tensor, "*shape"], power: float) -> Float[Tensor, "*shape"]:
    """k_f of the power family, (u^(p + 1) - (p + 1) u + p)/(p (p + 1)) >= 0: `u f(1/u)` has the power -1 - p.

    float32 holds it for log u < 81/max(1, 1 + p) and, p < -1, log u > 87/(1 + p).
    """
    return power_khat(-x, -1 - power)


def log_mixture(x: Float[Tensor, "*shape"], weight: float) -> Float[Tensor, "*shape"]:
    """log((1 - weight) + weight u), weight in [0, 1]."""
    if weight in (0.0, 1.0):
        return x if weight else torch.zeros_like(x)
    far = math.log1p(-weight) - logsigmoid(-(x + math.log(weight) - math.log1p(-weight)))
    # Clamped, for far out the branch not taken is infinite and its gradient NaN.
    return torch.where(x.abs() < 1, torch.log1p(weight * torch.expm1(x.clamp(-1, 1))), far)
