"""Every shipped divergence in every setting of its keys, one of a user's own, and how hard hypothesis tries."""

from __future__ import annotations

import pytest
import torch
from helpers.definitions import every
from hypothesis import settings
from torch import Tensor

from align.config.registry import _complete

KNOWN = every()
SHIPPED = {name: known.divergence for name, known in KNOWN.items()}
QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
OF_EACH = settings(QUICK, max_examples=10)
each = pytest.mark.parametrize("name", SHIPPED)


class Hellinger:
    def f(self, log_u):
        return torch.expm1(log_u / 2) ** 2


OWN = _complete(Hellinger, "divergence", "own")()


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float):
    excess = (actual - expected).abs() - bound
    assert (excess <= 0).all(), f"off by {(actual - expected).abs().max():.3e} at {int(excess.argmax())}, allowed {bound}"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
