"""Every shipped divergence, estimator and surrogate at log-ratios far beyond what float32 holds: finite values and gradients, never NaN."""

import math

import pytest
import torch
from helpers.built import part
from property.divergences import SHIPPED

from align.config import registry
from align.core.credit import Packing, bounded
from align.divergences.alpha import Alpha

FAR = torch.cat([sign * torch.logspace(-3, 4, 120, dtype=torch.float64) for sign in (-1, 1)] + [torch.tensor([0.0], dtype=torch.float64)])
"""log u, nats, from -1e4 to 1e4."""
MODERATE = 60.0
"""Nats: up to here, and where float32 holds the number, the two types must agree."""


def value_and_slope(function, x):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    (slope,) = torch.autograd.grad(y.sum(), leaf) if y.requires_grad else (torch.zeros_like(x),)
    return y.detach(), slope


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_divergence_stays_finite(name, dtype):
    divergence, x = SHIPPED[name], FAR.to(dtype)
    for use in ("f_prime", "grad_weight", "bregman", "khat"):
        y, slope = value_and_slope(getattr(divergence, use), x)
        assert y.isfinite().all() and slope.isfinite().all(), (use, x[~(y.isfinite() & slope.isfinite())])
        if use in ("bregman", "khat"):
            assert (y >= 0).all()
        far = (x.abs() > 1) & (x.abs() < MODERATE)
        exact = getattr(divergence, use)(x.double())
        held = far & (exact.abs() < 1e37) & (exact.abs() > 1e-30)
        torch.testing.assert_close(y[held].double(), exact[held], rtol=1e-4, atol=0)


@pytest.mark.parametrize("use", ["bregman", "khat"])
def test_the_alpha_divergence_below_the_range_of_its_power(use):
    """alpha 0.97 at -88 nats and below: e^88 is the edge of float32, and the value stays at it."""
    found = getattr(Alpha(0.97), use)(torch.tensor([-80.0, -88.0, -89.0, -1e3, -1e4]))
    assert found.isfinite().all() and (found.diff() >= 0).all()
    assert found[0] == pytest.approx(getattr(Alpha(0.97), use)(torch.tensor(-80.0, dtype=torch.float64)).item(), rel=1e-4)
    assert found[-1] == found[-2] and (use == "bregman" or found[-1] > 1e36)


@pytest.mark.parametrize("name", registry.shipped("estimator"))
def test_an_estimator_stays_finite(name):
    estimator, kl, x = part("estimator", name), part("divergence", "reverse_kl"), FAR.float()
    for use in ("value", "grad_weight", "reward"):
        y, slope = value_and_slope(lambda x, use=use: getattr(estimator, use)(kl, x), x)
        assert y.isfinite().all() and slope.isfinite().all(), use


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("name", registry.shipped("surrogate"))
def test_a_surrogate_stays_finite(name, advantage):
    surrogate, x = part("surrogate", name), FAR.float()
    for at in (Packing(torch.arange(len(x)), torch.zeros(len(x)).long()), Packing(torch.zeros(len(x)).long(), torch.arange(len(x)))):
        advantages = torch.full_like(x, advantage)
        loss, slope = value_and_slope(lambda x, at=at, a=advantages: surrogate.loss(x, a, at)[0], x)
        assert loss.isfinite().all() and slope.isfinite().all() and surrogate.effective_log_ratio(x, at).isfinite().all()
        if advantage == 0:
            assert (loss == 0).all() and (slope == 0).all()


def test_what_pushes_a_token_back_from_afar_keeps_its_gradient():
    """A < 0 at log rho > 88: `clipped` has no bound there, and its gradient is the largest ratio, not 0."""
    _, slope = value_and_slope(
        lambda x: part("surrogate", "clipped").loss(x, torch.full_like(x, -1.0), Packing(torch.tensor([0, 1]), torch.zeros(2).long()))[0],
        torch.tensor([80.0, 1e4]),
    )
    assert slope[0] == pytest.approx(math.exp(80), rel=1e-4) and slope[1] > slope[0]


def test_a_weight_without_a_cap_stays_finite():
    weight = bounded(torch.tensor([0.0, 88.0, 1e4]), math.inf, masks=False)
    assert weight.rho[0] == 1 and weight.rho.isfinite().all() and not weight.beyond.any()
