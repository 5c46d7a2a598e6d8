"""What holds for every divergence at one log-ratio: one f behind all forms, digits, range, families, refused keys."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property.divergences import KNOWN, OF_EACH, OWN, SHIPPED, assert_within, each

from align.config.registry import _complete, resolve
from align.divergences import Divergence
from align_kernels.codegen.forms import forms_of

EPS64 = torch.finfo(torch.float64).eps
log_ratios = st.lists(st.floats(1e-7, 20) | st.floats(-20, -1e-7), min_size=1, max_size=40).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


def f_alone(divergence: Divergence) -> Divergence:
    """The same f, everything else by the contract's fallback."""
    return _complete(type("Own", (), {"f": lambda self, log_u: divergence.f(log_u)}), "divergence", "own")()


@each
@OF_EACH
@given(log_u=log_ratios)
def test_khat_and_bregman_are_positive_away_from_the_reference(name, log_u):
    assert (SHIPPED[name].khat(log_u) > 0).all()
    assert (SHIPPED[name].bregman(log_u) > 0).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_zero_at_the_reference(name, dtype):
    zero, d = torch.zeros(3, dtype=dtype), SHIPPED[name]
    for of in (d, OWN):
        for x in (of.khat(zero), of.bregman(zero), of.grad_weight(zero), of.f(zero)):
            assert torch.equal(x, zero) and x.dtype == dtype


@each
@OF_EACH
@given(log_u=log_ratios)
def test_one_f_behind_all_forms(name, log_u):
    """khat = bregman/u; the slope of bregman is grad_weight, that of f is f_prime; f and bregman differ by a line."""
    d, u = SHIPPED[name], torch.exp(log_u)
    # Near u = 1 both are differences of terms of the size of log u.
    rounding = 8 * EPS64 * log_u.abs()
    assert_within(d.khat(log_u), d.bregman(log_u) / u, 1e-13 * d.khat(log_u) + rounding * (1 + 1 / u))
    x = log_u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(d.bregman(x).sum(), x)
    assert_within(slope / u, d.grad_weight(log_u), 1e-12 * d.grad_weight(log_u).abs() + 8 * EPS64 * (1 + 1 / u))
    (slope,) = torch.autograd.grad(d.f(x).sum(), x)
    assert_within(slope / u, d.f_prime(log_u), 1e-12 * d.f_prime(log_u).abs() + 16 * EPS64 * (1 + 1 / u) * (1 + log_u.abs()))
    at_one = d.f_prime(torch.zeros((), dtype=torch.float64))
    assert_within(d.f(log_u) - at_one * (u - 1), d.bregman(log_u), 1e-12 * d.bregman(log_u) + 16 * EPS64 * (1 + u) * (1 + log_u.abs()))


@each
@OF_EACH
@given(log_u=log_ratios)
def test_closed_forms_agree_with_the_fallback(name, log_u):
    """What a user gets who writes f alone. Autograd differentiates by log u and divides by u, so rounding grows like 1/u."""
    d, own, u = SHIPPED[name], f_alone(SHIPPED[name]), torch.exp(log_u)
    small = 32 * EPS64 * (1 + log_u.abs())
    near_one = 1e-3 if name in ("tsallis_0.999", "tsallis_1.001") else 1.0
    assert_within(own.f_prime(log_u), d.f_prime(log_u), 1e-12 * d.f_prime(log_u).abs() + small * (1 + 1 / u) / near_one)
    assert_within(own.grad_weight(log_u), d.grad_weight(log_u), 1e-12 * d.grad_weight(log_u).abs() + small * (1 + 1 / u) / near_one)
    assert_within(own.bregman(log_u), d.bregman(log_u), 1e-12 * d.bregman(log_u) + small * (1 + u))
    assert_within(own.khat(log_u), d.khat(log_u), 1e-12 * d.khat(log_u) + small * (1 + 1 / u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fallback_keeps_the_type_and_takes_any_shape(dtype):
    x = torch.linspace(-5, 5, 12, dtype=dtype).reshape(3, 4)
    for of in (OWN.f_prime, OWN.grad_weight, OWN.bregman, OWN.khat):
        differentiable = of in (OWN.f_prime, OWN.grad_weight)  # a preference link descends through them
        assert of(x).shape == (3, 4) and of(x).dtype == dtype and of(x.clone().requires_grad_()).requires_grad is differentiable
        assert not of(x).requires_grad


def high_precision(name: str, x: float) -> tuple[float, float, float]:
    """(c, k, khat) at log u = x from f'(u) - f'(1) and f(u) - f(1) - f'(1)(u - 1), with 60 digits."""
    _, definition, keys = KNOWN[name]
    with mpmath.workdps(60):
        u, one = mpmath.exp(mpmath.mpf(x)), mpmath.mpf(1)
        exact_keys = {key: mpmath.mpf(value) for key, value in keys.items()}

        def f(v):
            return definition(v, mpmath.log, **exact_keys)

        at_one = mpmath.diff(f, one)
        k = f(u) - at_one * (u - 1)
        return float(mpmath.diff(f, u) - at_one), float(k), float(k / u)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_digits(name, dtype):
    """Against 60 digits, |log u| from 1e-7 to 20: right to 24 roundings, and those of the exponents (8e-6 in float32 at worst)."""
    eps = torch.finfo(dtype).eps
    x = torch.cat([s * torch.logspace(-7, math.log10(20), 40, dtype=torch.float64) for s in (1, -1)]).to(dtype)
    c, k, khat = (torch.tensor(v, dtype=torch.float64) for v in zip(*(high_precision(name, v) for v in x.tolist()), strict=True))
    d, relative = SHIPPED[name], eps * (24 + 2 * x.double().abs())
    assert_within(d.grad_weight(x).double(), c, relative * c.abs())
    assert_within(d.bregman(x).double(), k, relative * k)
    assert_within(d.khat(x).double(), khat, relative * khat)


@each
def test_float32_keeps_its_range(name):
    """No NaN for |log u| <= 80; to 1e-5 of float64 wherever float32 has such a number."""
    x = torch.linspace(-80, 80, 641)
    d = SHIPPED[name]
    for of in (d.grad_weight, d.bregman, d.khat):
        found, expected = of(x), of(x.double())
        assert torch.isfinite(expected).all() and not torch.isnan(found).any()
        held = (expected.abs() < 1e37) & (expected.abs() > 1e-37)
        assert held.sum() > 150
        assert_within(found[held].double(), expected[held], 1e-5 * expected[held].abs())


@each
def test_full_support_is_a_coefficient_without_bound_at_zero(name):
    """f'(0+) = -inf: at u = e^-100000 it stays at the largest numbers of float64, or is still falling."""
    near, far = SHIPPED[name].grad_weight(torch.tensor([-1e4, -1e5], dtype=torch.float64)).tolist()
    assert SHIPPED[name].full_support == (far < -1e300 or far < near - 1)


def same(first: str, second: str, scale: float = 1.0):
    """Elementwise, in each of the three uses: the first is `scale` times the second."""
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    for use in ("grad_weight", "bregman", "khat"):
        found, expected = (getattr(known[0], use)(x) for known in (KNOWN[first], KNOWN[second]))
        torch.testing.assert_close(found, scale * expected, rtol=1e-12, atol=0)


def test_the_power_family_meets():
    """methods D: alpha and Cressie-Read are D^q/q with q = 1 - alpha = 1 + power; the KLs, chi-squareds and Hellinger are members."""
    same("pearson", "tsallis_2")
    same("hellinger", "tsallis_0.5")
    same("hellinger", "alpha_0.5", 0.5)
    same("cressie_read_-0.5", "alpha_0.5")
    same("alpha_0.5", "tsallis_0.5", 2.0)
    same("cressie_read_0", "reverse_kl")
    same("tsallis_1", "reverse_kl")
    same("cressie_read_-1", "forward_kl")


def test_limits_of_the_skewed():
    """lam = 0 is the KL itself; b = 1/2 is the Jensen-Shannon divergence, half of f-DPO's."""
    same("skew_kl_0", "forward_kl")
    same("skew_reverse_kl_0", "reverse_kl")
    same("generalised_jsd_0.5", "jensen_shannon", 0.5)


@pytest.mark.parametrize(
    ("part", "keys", "reason"),
    [
        ("alpha", {"alpha": 0.0}, "reverse_kl"),
        ("alpha", {"alpha": 1.0}, "TRL's alpha is 1 - alpha"),
        ("alpha", {"alpha": math.nan}, "alpha"),
        ("cressie_read", {"power": math.inf}, "finite"),
        ("generalised_jsd", {"b": 0.0}, "forward_kl"),
        ("generalised_jsd", {"b": 1.0}, "reverse_kl"),
        ("renyi", {"q": 0.0}, "positive"),
        ("skew_kl", {"lam": 1.0}, "nothing is left"),
        ("skew_kl", {"lam": -0.1}, "forward_kl"),
        ("skew_reverse_kl", {"lam": 1.0}, "nothing is left"),
        ("skew_reverse_kl", {"lam": -0.1}, "reverse_kl"),
        ("tsallis", {"q": -1.0}, "positive"),
        ("tsallis", {"q": math.nan}, "positive"),
    ],
)
def test_keys_without_meaning_are_refused(part, keys, reason):
    with pytest.raises(ValueError, match=reason):
        resolve("divergence", part, "test")(**keys)


class Kinked(Divergence):
    """(u - 1)^+ by its formula alone: at u = 1 the slope is 0 on one side and 1 on the other."""

    scale = 1.0

    def f(self, log_u):
        return self.scale * torch.relu(torch.expm1(log_u))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_a_kink_is_seen_at_every_scale(scale):
    kinked, x = Kinked(), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    kinked.scale = scale
    assert kinked.grad_weight(x).div(scale).tolist() == pytest.approx([-0.5, 0.0, 0.5])


def test_the_trainer_and_the_kernels_take_one_slope_at_a_kink():
    own, kernels, x = Kinked(), forms_of(Kinked().f, Kinked), torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0], dtype=torch.float64)
    for ours, theirs in ((own.grad_weight, kernels.grad_weight), (own.bregman, kernels.bregman), (own.khat, kernels.khat)):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    assert own.grad_weight(x).tolist() == pytest.approx([-0.5, -0.5, 0.0, 0.5, 0.5])
