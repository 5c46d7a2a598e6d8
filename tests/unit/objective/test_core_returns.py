"""GAE and whitening: the published digits, and a plain loop over each sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align.core.returns import gae, paid, whiten


def packing(lengths: list[int]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor(lengths)
    return torch.repeat_interleave(torch.arange(len(lengths)), counts), torch.cat([torch.arange(n) for n in lengths])


def by_loop(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over k of (gamma lam)^k delta_{t+k}, written out."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * w - v for r, v, w in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]


def number(x: list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_row_64_digits():
    advantages, returns = gae(number([0, 0, 1]), number([0.5, 0.4, 0.3]), *packing([3]), gamma=1.0, lam=0.95)
    torch.testing.assert_close(advantages, number([0.43675, 0.565, 0.7]), rtol=0, atol=1e-15)
    torch.testing.assert_close(returns, number([0.93675, 0.965, 1.0]), rtol=0, atol=1e-15)


def test_row_64_lambda_1_is_the_reward_to_go_minus_the_value_and_lambda_0_one_step():
    rewards, values = number([0.5, -1, 2, 3]), number([0.1, 0.2, 0.3, 0.4])
    advantages, returns = gae(rewards, values, *packing([4]), gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, number([4.5, 4.0, 5.0, 3.0]), rtol=0, atol=1e-14)
    torch.testing.assert_close(advantages, number([4.4, 3.8, 4.7, 2.6]), rtol=0, atol=1e-14)
    advantages, _ = gae(rewards, values, *packing([4]), gamma=0.5, lam=0.0)
    torch.testing.assert_close(advantages, number([0.5, -1.05, 1.9, 2.6]), rtol=0, atol=1e-14)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_sequences_of_any_length_packed_end_to_end(lengths: list[int], gamma: float, lam: float, seed: int):
    rewards, values = np.random.default_rng(seed).normal(size=(2, sum(lengths)))
    expected, start = [], 0
    for n in lengths:
        expected += by_loop(rewards[start : start + n].tolist(), values[start : start + n].tolist(), gamma, lam)
        start += n
    advantages, returns = gae(torch.from_numpy(rewards), torch.from_numpy(values), *packing(lengths), gamma, lam)
    torch.testing.assert_close(advantages, number(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(returns, advantages + torch.from_numpy(values))


def test_what_is_paid_inside_is_left_out_at_the_end():
    """Three answers: two steps in the middle, none, one at the last token itself."""
    seq_ids, _ = packing([4, 2, 1])
    rewards, inside = number([1.0, 0.5, 2.0]), number([0, 0.75, -0.5, 0, 0, 0, 2.0])
    assert paid(rewards, inside, seq_ids).tolist() == [0, 0.75, -0.5, 0.75, 0, 0.5, 2.0]
    assert paid(rewards, None, seq_ids).tolist() == [0, 0, 0, 1.0, 0, 0.5, 2.0]


def test_what_a_critic_learns_from_is_detached():
    values = torch.randn(3, requires_grad=True)
    advantages, returns = gae(torch.ones(3), values, *packing([2, 1]), 1.0, 0.95)
    assert not advantages.requires_grad and not returns.requires_grad and advantages.dtype == torch.float32
    assert not whiten(values).requires_grad


@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize("keep", [None, [True, False, True, True, False, True]])
def test_whitening(keep: list[bool] | None, shift_mean: bool):
    """Unbiased variance, and 1e-8 inside the root, of the chosen tokens; all are transformed."""
    x = np.array([1.0, -2.0, 0.5, 4.0, 7.0, 0.25])
    chosen = x if keep is None else x[keep]
    expected = (x - chosen.mean()) / np.sqrt(chosen.var(ddof=1) + 1e-8) + (0 if shift_mean else chosen.mean())
    found = whiten(torch.from_numpy(x), None if keep is None else torch.tensor(keep), shift_mean)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("x", [[0.7], [0.1] * 7, [1000.1] * 3])
def test_whitening_what_does_not_vary_gives_exactly_0(x: list[float]):
    """Rounding over a standard deviation of 0 would be an advantage."""
    assert whiten(torch.tensor(x)).tolist() == [0.0] * len(x)
