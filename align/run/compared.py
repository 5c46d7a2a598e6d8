"""Compares two models on the same held-out problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from align.run.answer_metrics import Values

NORMAL_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Compared:
    """A metric of two models, and how they differ."""

    one: float
    other: float
    difference: float
    """`one` minus `other`, over the problems that both have a value for."""
    half_width: float | None
    """Half of the difference's 95 % interval; None of fewer than two problems."""
    problems: int


def compare(one: Mapping[str, Values], other: Mapping[str, Values]) -> dict[str, Compared]:
    """The metrics that both have, problem by problem.

    The interval is normal, from the paired differences: as both models answer the same problems, what makes a problem hard cancels
    (Miller 2411.00640, section 4.2). It covers the choice of problems and the draw of answers, not the seeds of training.
    """
    return {name: _compared(one[name], other[name]) for name in one if name in other and len(one[name]) == len(other[name])}


def _compared(one: Values, other: Values) -> Compared:
    both = ~(np.isnan(one) | np.isnan(other))
    differences = (one - other)[both]
    n = len(differences)
    half = NORMAL_95 * float(differences.std(ddof=1)) / n**0.5 if n > 1 else None
    values = [float(v[both].mean()) if n else float("nan") for v in (one, other)]
    return Compared(values[0], values[1], float(differences.mean()) if n else float("nan"), half, n)
