"""Checks of a curriculum: finite weights >= 0 that follow from the pass rates alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from align.curricula import Curriculum
from align.errors import RecipeError
from align.run.curriculum import checked_weights
from align.testing.findings import Finding, Kit
from align.testing.formulas import MEND, explained

KIT = Kit("curriculum")


def check_curriculum(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a curriculum, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def rates() -> tuple[np.ndarray, np.ndarray]:
    """Of 12 prompts: those that were never tried, always, never and sometimes solved, after few and many answers."""
    tried = np.array([0, 8, 8, 8, 0, 8, 8, 800, 800, 800, 1, 1])
    passed = np.array([np.nan, 0.0, 1.0, 0.5, np.nan, 0.125, 0.875, 0.0, 1.0, 0.5, 0.0, 1.0])
    return passed, tried


def _weights_at(c: Curriculum, passed: np.ndarray, tried: np.ndarray) -> np.ndarray:
    passed, tried = passed.copy(), tried.copy()
    passed.flags.writeable = tried.flags.writeable = False
    return checked_weights(c, passed, tried)


@KIT.check("weights", "return a new float64 array [N] of finite numbers >= 0, not all 0, with numbers also where `passed` is NaN")
def _weights(c: Curriculum) -> str | None:
    """finite float64 weights, at least 0 and not all 0, also of data that was never tried, or is always or never solved"""
    passed, tried = rates()
    cases = {
        "some of everything": np.arange(12),
        "nothing tried": np.isnan(passed),
        "all solved": passed == 1,
        "none solved": passed == 0,
        "one prompt": np.array([0]),
    }
    for name, chosen in cases.items():
        try:
            _weights_at(c, passed[chosen], tried[chosen])
        except RecipeError as error:
            return f"{name}: {error.problem}"
    return None


@KIT.check("repeats", "compute the weights from the arguments and the keys alone, without drawing")
def _repeats(c: Curriculum) -> str | None:
    """the same pass rates always have the same weights"""
    one, two = (_weights_at(c, *rates()) for _ in range(2))
    return None if np.array_equal(one, two) else "they change"


@KIT.check("order", "compute a weight from the prompt's own rate and from statistics of all, never from its place")
def _order(c: Curriculum) -> str | None:
    """the prompts in another order have the same weights"""
    passed, tried = rates()
    found, turned = _weights_at(c, passed, tried), _weights_at(c, passed[::-1], tried[::-1])
    return None if np.allclose(found, turned[::-1], rtol=1e-9) else "they have others"


@KIT.check("explained", MEND)
def _explained(c: Curriculum) -> str | None:
    """it states its weights and the meaning of the symbols"""
    return explained(c)
