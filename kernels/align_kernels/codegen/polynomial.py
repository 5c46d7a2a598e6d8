"""Polynomials of a divergence near log u = 0, where its formulas cancel in float32 and cost more: k_f/x^2 and c/x, fitted in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from align_kernels.by_f import Function

RADII = (0.5, 1.0)
SMALLER = (0.25, 0.125, 0.0625, 0.03125)
"""Where a kink or a pole near log u = 0 leaves no larger one, the first of these that fits."""
_MOST_TERMS = 12
_ACCURACY = 2e-8
_NODES = 24


def polynomials(function: Function, order: int) -> dict[float, list[float]]:
    """By radius, those there are."""
    found = {radius: polynomial(function, order, radius) for radius in RADII}
    for radius in SMALLER:
        if not any(found.values()):
            found[radius] = polynomial(function, order, radius)
    return {radius: coefficients for radius, coefficients in found.items() if coefficients is not None}


def polynomial(function: Function, order: int, radius: float) -> list[float] | None:
    """Coefficients, constant first, of function(x)/x^order on |x| <= radius; None where no short polynomial is close, as at a kink.

    As few as reach a third of float32's rounding, relative to the largest value. In every process the same to the last digit, for kernels
    are cached by their text; a linear solver's are not.
    """
    # An even number of Chebyshev's nodes leaves out 0, where the quotient is 0/0.
    angles = [math.pi * (i + 0.5) / _NODES for i in range(_NODES)]
    x = radius * torch.tensor([math.cos(t) for t in angles], dtype=torch.float64)
    check = radius * torch.linspace(0.02, 1, 60, dtype=torch.float64)
    check = torch.cat([-check, check])
    at_nodes, target = (function(x) / x**order).tolist(), function(check) / check**order
    chebyshev = [2 / _NODES * math.fsum(y * math.cos(k * t) for y, t in zip(at_nodes, angles, strict=True)) for k in range(_MOST_TERMS)]
    chebyshev[0] /= 2
    for terms in range(1, _MOST_TERMS + 1):
        # Rounded, so that what is 0 or 1 but for the fit's own noise is so.
        fitted = [round(c / radius**i, 12) for i, c in enumerate(_powers(chebyshev[:terms]))]
        if (horner(fitted, check) - target).abs().max() <= _ACCURACY * target.abs().max():
            return fitted
    return None


def _powers(chebyshev: list[float]) -> list[float]:
    """Of a sum of Chebyshev's polynomials, the coefficients of 1, x, x^2, ..."""
    rows = [[1], [0, 1]]
    for _ in chebyshev[2:]:
        rows.append([2 * a - b for a, b in zip([0, *rows[-1]], [*rows[-2], 0, 0], strict=True)])
    return [math.fsum(c * row[i] for c, row in zip(chebyshev, rows, strict=False) if i < len(row)) for i in range(len(chebyshev))]


def horner(coefficients: list[float], x: Tensor) -> Tensor:
    result = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * x + coefficient
    return result
