"""Losses of a critic: where the clip cuts, the certainty equivalent that Itakura-Saito finds, and digits near and far from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.core.values import clipped_squared, explained_variance, itakura_saito


def number(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_clipped_squared_by_hand():
    """Old values 0, clip .2, R = 1 unless said: the larger of both errors, with a gradient unless the clipped one is it."""
    values = number(0.1, 0.5, -0.5, 0.2, 0.5, -0.5, 1.9).requires_grad_()
    returns = number(1, 1, 1, 1, -1, -1, 1)
    loss, cut = clipped_squared(values, torch.zeros(7, dtype=torch.float64), returns, 0.2)
    torch.testing.assert_close(loss, 0.5 * number(0.9, 0.8, 1.5, 0.8, 1.5, 0.8, 0.9) ** 2, rtol=1e-14, atol=0)
    assert cut.tolist() == [False, True, False, False, False, True, False] and not cut.requires_grad
    gradient = torch.autograd.grad(loss.sum(), values)[0]
    torch.testing.assert_close(gradient, number(-0.9, 0, -1.5, -0.8, 1.5, 0, 0.9), rtol=1e-14, atol=0)


def test_clipped_squared_is_the_maximum_of_both():
    generator = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 500, generator=generator, dtype=torch.float64)
    leaf = values.clone().requires_grad_()
    loss, cut = clipped_squared(leaf, old, returns, 0.2)
    other = values.clone().requires_grad_()
    published = 0.5 * torch.max((other - returns) ** 2, (torch.clamp(other, old - 0.2, old + 0.2) - returns) ** 2)
    torch.testing.assert_close(loss, published, rtol=1e-13, atol=1e-16)
    gradient, expected = torch.autograd.grad(loss.sum(), leaf)[0], torch.autograd.grad(published.sum(), other)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)
    assert torch.equal(cut, expected == 0) and 100 < cut.sum() < 400
    unbounded, never = clipped_squared(values, old, returns, math.inf)
    assert torch.equal(unbounded, 0.5 * (values - returns) ** 2) and not never.any()


@pytest.mark.parametrize("alpha", [0.5, -1.2, 2.0])
def test_row_50_the_minimiser_is_the_certainty_equivalent(alpha: float):
    """-(1/alpha) log E e^(-alpha X): below the mean for a risk-averse critic, above it for a risk-seeking one."""
    targets, weights = number(0.3, -1.0, 1.4, 0.9, -0.2), number(0.1, 0.3, 0.2, 0.25, 0.15)
    equivalent = -(weights * (-alpha * targets).exp()).sum().log() / alpha

    def slope(value: Tensor) -> float:
        leaf = value.clone().requires_grad_()
        return torch.autograd.grad((weights * itakura_saito(leaf.expand(5), targets, alpha)).sum(), leaf)[0].item()

    assert slope(equivalent) == pytest.approx(0, abs=1e-15)
    assert slope(equivalent - 0.1) < -0.01 < 0.01 < slope(equivalent + 0.1)
    assert (equivalent < (weights * targets).sum()) == (alpha > 0)


def test_row_50_without_risk_it_is_half_the_square():
    d = torch.linspace(-3, 3, 13, dtype=torch.float64)
    zero = torch.zeros(13, dtype=torch.float64)
    for alpha, accuracy in ((1e-5, 2e-5), (-1e-5, 2e-5), (0.0, 1e-15)):
        leaf = d.clone().requires_grad_()
        loss = itakura_saito(leaf, zero, alpha)
        torch.testing.assert_close(loss.detach(), d**2 / 2, rtol=accuracy, atol=1e-15)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), leaf)[0], d, rtol=2 * accuracy, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.5, -1.2, 2.0])
def test_the_formula_and_its_gradient(alpha: float):
    values, targets = torch.randn(2, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = values.clone().requires_grad_()
    loss = itakura_saito(leaf, targets, alpha)
    z = alpha * (values - targets)
    torch.testing.assert_close(loss.detach(), (z.exp() - z - 1) / alpha**2, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), leaf)[0], (z.exp() - 1) / alpha, rtol=1e-12, atol=1e-14)


def test_float32_keeps_its_digits_near_the_target():
    """A difference of 1e-3 at alpha = 1e-3: e^z - z - 1 and e^z - 1 would keep none and one."""
    values = torch.tensor([1e-3, -1e-3], requires_grad=True)
    loss = itakura_saito(values, torch.zeros(2), 1e-3)
    torch.testing.assert_close(loss.detach(), torch.tensor([5e-7, 5e-7]), rtol=2e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), values)[0], torch.tensor([1e-3, -1e-3]), rtol=2e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.5, -1.2])
def test_beyond_the_clamp_the_gradient_is_bounded_and_alive(alpha: float):
    """It goes on along the tangent: loss and slope meet those at the clamp, and float32 does not overflow."""
    clamp = 4.0
    edge = clamp / alpha
    values = number(edge, edge * 3, edge * 250).requires_grad_()
    loss = itakura_saito(values, torch.zeros(3, dtype=torch.float64), alpha, clamp)
    slope = math.expm1(clamp) / alpha
    assert torch.autograd.grad(loss.sum(), values)[0].tolist() == pytest.approx([slope] * 3, rel=1e-14)
    at_edge = (math.exp(clamp) - clamp - 1) / alpha**2
    assert loss.tolist() == pytest.approx([at_edge, at_edge + slope * edge * 2, at_edge + slope * edge * 249], rel=1e-13)
    far = torch.tensor([1e6 * edge, -1e6 * edge], requires_grad=True)
    loss = itakura_saito(far, torch.zeros(2), alpha)
    gradient = torch.autograd.grad(loss.sum(), far)[0]
    assert loss.isfinite().all() and gradient.tolist() == pytest.approx([math.expm1(10) / alpha, -1 / alpha], rel=1e-6)


def test_gradients_flow_through_the_values_alone():
    values, other = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    gradients = torch.autograd.grad(itakura_saito(values, other, 0.5).sum(), (values, other), allow_unused=True)
    assert gradients[0] is not None and gradients[1] is None


def test_explained_variance():
    returns = number(1, 2, 3, 6)
    assert explained_variance(returns, returns).item() == 1
    assert explained_variance(number(7, 7, 7, 7), returns).item() == 0
    assert explained_variance(returns / 2, returns).item() == 0.75
    assert explained_variance(-returns, returns).item() == -3
    assert explained_variance(returns, number(2, 2, 2, 2)).isnan()
    assert not explained_variance(returns.requires_grad_(), number(1, 2, 3, 4)).requires_grad
