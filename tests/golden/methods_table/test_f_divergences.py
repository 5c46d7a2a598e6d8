"""Section 0 of the methods' oracle table: what follows from f, closed forms and values of each divergence (rows 10 to 15)."""

from __future__ import annotations

import pytest
import torch
from golden.methods_table.token_contexts import packed, random_tokens
from golden.methods_table.toys import (
    EVERY,
    FUNCTIONS,
    SHIPPED,
    close,
    loss_gradient,
    mean,
    penalty_of,
    regularizer,
    slope,
    written_by_a_user,
)
from helpers.enumeration import NAME

from align.divergences.pearson import Pearson
from align.divergences.tsallis import Tsallis
from align.estimators.exact import Exact
from align.estimators.sampled import Sampled


@pytest.mark.parametrize(("divergence", "f"), EVERY)
def test_row_10_gradient_per_sample(divergence, f):
    """rho * khat differentiated as a whole, khat built from f, equals rho (f'(u) - f'(1)) s: sample by sample, off-policy."""
    pi, mu, ref = random_tokens()
    u, one = torch.exp(pi - ref), torch.ones((), dtype=torch.float64)
    khat = (f(u) - f(one) - slope(f, one) * (u - 1)) / u
    whole = torch.autograd.grad((torch.exp(pi - mu) * khat).sum(), pi)[0]
    penalty = regularizer(divergence, Sampled()).penalty(packed(pi, mu, ref, [1] * 50), NAME)
    close(torch.autograd.grad(penalty.loss.sum(), pi)[0], whole, 11)
    close(penalty.value, torch.exp(pi - mu).detach() * khat.detach(), 11)
    close(torch.exp(pi - mu).detach() * divergence.grad_weight((pi - ref).detach()), whole, 11)


@pytest.mark.parametrize(
    ("name", "delta", "c", "khat"),
    [
        ("reverse_kl", 0.7, -0.7, 0.3137527075),
        ("forward_kl", 0.7, -1.0137527075, 0.3958741878),
        ("jensen_shannon", 0.7, -0.4100388683, 0.1738711456),
        ("hellinger", 0.7, -0.4190675486, 0.1756176103),
        ("jeffreys", 0.7, -1.7137527075, 0.7096268952),
        ("reverse_kl", -0.4, 0.4, 0.0703200460),
        ("pearson", -0.4, 0.9836493953, 0.1621447437),
        ("alpha_0.3", -0.4, 0.3769318776, 0.0675027481),
        ("tsallis_1.7", -0.4, 0.7847438300, 0.1319340637),
        ("chi2_kl", -0.4, 0.8918246976, 0.1513924179),
    ],
)
def test_rows_11_and_12_closed_forms(name, delta, c, khat):
    log_u = torch.tensor(-delta, dtype=torch.float64)
    for divergence in (written_by_a_user(FUNCTIONS[name]), SHIPPED[name]):
        close(divergence.grad_weight(log_u), c)
        close(divergence.khat(log_u), khat)


@pytest.mark.parametrize(("divergence", "f"), EVERY)
def test_row_13_value_is_zero_only_at_the_reference(divergence, f):
    log_u = torch.linspace(-3, 3, 601, dtype=torch.float64)
    away = torch.arange(601) != 300
    assert (divergence.khat(log_u[away]) > 1e-6).all()
    close(divergence.khat(log_u.new_zeros(1)), [0.0], 15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward_kl", 0.3792462753),
        ("jensen_shannon", 0.1764579166),
        ("alpha_0.3", 0.3717900112),
        ("pearson", 1.085),
        ("neyman", 1.06),
        ("hellinger", 0.1837216705),
        ("jeffreys", 0.7671652241),
        ("total_variation", 0.3),
        ("chi2_kl", 0.9304189488),
        ("reverse_kl", 0.3879189488),
        ("k2_functional", 0.4614949124),
    ],
)
@pytest.mark.parametrize("estimator", [Sampled(), Exact()], ids=["sampled", "exact"])
def test_row_14_divergences(name, expected, estimator):
    for divergence in (written_by_a_user(FUNCTIONS[name]), SHIPPED[name]):
        penalty, ctx, _ = penalty_of(divergence, estimator)
        close(mean(ctx, penalty.value), expected)


@pytest.mark.parametrize(
    "divergence", [Pearson(), Tsallis(q=2.0), written_by_a_user(FUNCTIONS["pearson"])], ids=["pearson", "tsallis", "own"]
)
def test_row_15_full_vocabulary_chi_squared(divergence):
    close(loss_gradient(*penalty_of(divergence, Exact()))[0], [1.532, -0.62583333, -0.434, -0.28366667, -0.1885], 8)
