"""What follows from a divergence's f alone, by autograd: one definition, for the trainer in float64 and for the kernels that are traced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
_BESIDE_ONE = 1e-9
"""|log u| on both sides of u = 1, nats."""


class AtOne(NamedTuple):
    """Where policy and reference agree."""

    f: float
    slope: float
    """f'(1). At a kink of the formula (clamp, abs) autograd takes one side's slope, though f itself may have none: the mean of both."""
    kink: bool


@dataclass(frozen=True)
class ByF:
    """Elementwise functions of x = log u (any shape, nats), from `f(log_u)`; differentiable where x is."""

    f: Function

    @cached_property
    def at_one(self) -> AtOne:
        x = torch.tensor([0.0, -_BESIDE_ONE, _BESIDE_ONE, -1.0, 1.0], dtype=torch.float64)
        y, slope = value_and_slope(self.f, x)
        at_one, below, above, *far = (slope.detach() * torch.exp(-x)).tolist()
        mean = (below + above) / 2
        # Of the size of f, so that a divergence and a multiple of it have their kink alike.
        size = max((abs(s - at_one) for s in (below, above, *far) if math.isfinite(s)), default=0.0)
        kink = math.isfinite(mean) and abs(at_one - mean) > 1e-6 * max(abs(at_one), size)
        return AtOne(y.detach()[0].item(), mean if kink else at_one, kink)

    def f_prime(self, x: Tensor) -> Tensor:
        """df/du."""
        slope = value_and_slope(self.f, x)[1] * torch.exp(-x)
        return torch.where(x == 0, self.at_one.slope, slope) if self.at_one.kink else slope

    def grad_weight(self, x: Tensor) -> Tensor:
        """c(u) = f'(u) - f'(1)."""
        centred = value_and_slope(self.f, x)[1] * torch.exp(-x) - self.at_one.slope
        return torch.where(x == 0, 0.0, centred) if self.at_one.kink else centred

    def bregman(self, x: Tensor) -> Tensor:
        """k_f(u) = f(u) - f(1) - f'(1)(u - 1)."""
        return self.f(x) - self.at_one.f - self.at_one.slope * torch.expm1(x)


def value_and_slope(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and df/dx; both differentiable again where x is."""
    again = x.requires_grad
    with torch.enable_grad():
        x = x if again else x.detach().requires_grad_()
        y = f(x)
        (slope,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=again)
    return (y, slope) if again else (y.detach(), slope)
