"""The optimum of `E[R] - beta D_f(pi||ref)` over five answers, by bisection and by f' inverted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.chi_squared_kl import ChiSquaredKl
from align.divergences.forward_kl import ForwardKl
from align.divergences.hellinger import Hellinger
from align.divergences.jeffreys import Jeffreys
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.neyman import Neyman
from align.divergences.reverse_kl import ReverseKl
from align.divergences.tsallis import Tsallis

REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0], dtype=torch.float64)
REF = torch.tensor([0.10, 0.30, 0.20, 0.15, 0.25], dtype=torch.float64)


def bisected(increasing: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The argument in [-60, 60] at which an increasing function reaches the target, elementwise."""
    low, high = torch.full_like(target, -60.0), torch.full_like(target, 60.0)
    for _ in range(200):
        middle = (low + high) / 2
        below = increasing(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


INVERSES: dict[str, tuple[Divergence, Callable[[Tensor], Tensor], float]] = {
    "reverse_kl": (ReverseKl(), torch.exp, math.inf),
    "forward_kl": (ForwardKl(), lambda x: 1 / (1 - x), 1.0),
    "jensen_shannon": (JensenShannon(), lambda x: x.exp() / (2 - x.exp()), math.log(2)),
    "alpha_0.3": (Alpha(alpha=0.3), lambda x: (1 - 0.3 * x) ** (-1 / 0.3), 1 / 0.3),
    "hellinger": (Hellinger(), lambda x: (1 - x) ** -2, 1.0),
    "neyman": (Neyman(), lambda x: (1 - x) ** -0.5, 1.0),
    "tsallis_0.5": (Tsallis(q=0.5), lambda x: (1 - x) ** -2, 1.0),
    "jeffreys": (Jeffreys(), lambda x: bisected(lambda y: y + 1 - (-y).exp(), x).exp(), math.inf),
    "chi_squared_kl": (ChiSquaredKl(), lambda x: bisected(lambda y: y + y.exp() - 1, x).exp(), math.inf),
}
"""u = (f')^{-1}(x) by hand, f' taken with f'(1) = 0, and the bound of f' that x must stay below."""


def optimum(inverse: Callable[[Tensor], Tensor], bound: float, rewards: Tensor, beta: float, ref: Tensor) -> Tensor:
    """ref (f')^{-1}((R - lambda)/beta), lambda so that it sums to 1: what maximises E R - beta D_f(pi||ref)."""
    low = rewards.max().item() - beta * min(bound, 50.0) + 1e-13  # the sum of the optimum falls with lambda
    high = low + 100.0
    for _ in range(200):
        middle = (low + high) / 2
        too_much = (ref * inverse((rewards - middle) / beta)).sum() > 1
        low, high = (middle, high) if too_much else (low, middle)
    return ref * inverse((rewards - high) / beta)
