"""Polynomials of a divergence near log u = 0, where its formulas cancel in float32 and cost more: k_f/x^2 and c/x, fitted in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from align_kernels.codegen.forms import Function

RADII = (0.5, 1.0)
_MOST_TERMS = 12
_ACCURACY = 2e-8
_NODES = 24


def polynomial(function: Function, order: int, radius: float) -> list[float] | None:
    """Coefficients, constant first, of function(x)/x^order on |x| <= radius; None where no short polynomial is close, as at a kink.

    As few as reach a third of float32's rounding, relative to the largest value.
    """
    # An even number of Chebyshev's nodes leaves out 0, where the quotient is 0/0.
    x = radius * torch.cos(torch.pi * (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES)
    check = torch.linspace(0.02, radius, 60, dtype=torch.float64)
    check = torch.cat([-check, check])
    wanted, target = function(x) / x**order, function(check) / check**order
    for terms in range(1, _MOST_TERMS + 1):
        powers = x[:, None] ** torch.arange(terms)
        # Rounded, so that what is 0 or 1 but for the fit's own noise is so.
        fitted = [round(c, 12) for c in torch.linalg.lstsq(powers, wanted[:, None]).solution[:, 0].tolist()]
        if (horner(fitted, check) - target).abs().max() <= _ACCURACY * target.abs().max():
            return fitted
    return None


def horner(coefficients: list[float], x: Tensor) -> Tensor:
    result = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * x + coefficient
    return result
