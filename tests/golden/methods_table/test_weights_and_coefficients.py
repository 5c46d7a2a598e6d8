"""Sections E and J of the methods' oracle table: DADS and Ziegler's adaptive coefficient (rows 32 and 59)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden.methods_table.token_contexts import packed
from golden.methods_table.toys import close
from helpers.enumeration import NAME

from align.coefficients.adaptive import Adaptive
from align.types import TokenBatch
from align.weightings.difficulty import Difficulty


def dads_batch(correct: int, advantage: float = 1.0) -> TokenBatch:
    """Eight rollouts of one token for one prompt, so many of them right."""
    ctx = packed(torch.zeros(8), None, torch.zeros(8), [1] * 8)
    return replace(ctx.batch, rewards=(torch.arange(8) < correct).float(), advantages=torch.full((8,), advantage))


@pytest.mark.parametrize(("correct", "expected"), [(0, 1.0), (1, 0.2880767929), (4, 0.7431186347), (7, 0.9073101773), (8, 1.0)])
def test_row_32_dads(correct, expected):
    close(Difficulty().weights(dads_batch(correct), NAME), torch.full((8,), expected), 7)
    close(Difficulty().weights(dads_batch(correct, advantage=-1.0), NAME), torch.ones(8), 15)


@pytest.mark.parametrize(("kl", "expected"), [(12.0, 0.201024), (6.3, 0.200256), (6.0, 0.2), (0.0, 0.198976)])
def test_row_59_ziegler(kl, expected):
    coefficient = Adaptive(target=6.0)
    state = coefficient.update(coefficient.initial_state(), kl, 256)
    close(coefficient.beta(1, state), expected, 14)
