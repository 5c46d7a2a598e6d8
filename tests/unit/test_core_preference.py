"""Preference losses: their published digits, their stationary margins, and the policy that their population optimum is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from align.core import preference
from align.core.links import link
from align.core.preference import cdpo, hinge, ipo, robust, sigmoid
from align.divergences import Divergence
from align.divergences.alpha import Alpha
from align.divergences.chi_squared_kl import ChiSquaredKl
from align.divergences.forward_kl import ForwardKl
from align.divergences.hellinger import Hellinger
from align.divergences.jeffreys import Jeffreys
from align.divergences.jensen_shannon import JensenShannon
from align.divergences.neyman import Neyman
from align.divergences.pearson import Pearson
from align.divergences.reverse_kl import ReverseKl
from align.divergences.tsallis import Tsallis

LOSSES = {"sigmoid": sigmoid, "hinge": hinge, "ipo": ipo, "cdpo": cdpo, "robust": robust}


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(actual: Tensor, expected: float, digits: int = 10) -> None:
    torch.testing.assert_close(actual, torch.full_like(actual, expected), rtol=0, atol=0.5000001 * 10.0**-digits)


def slope(loss: Callable[..., Tensor], margin: float, *rest: float) -> float:
    """dL/dD at D = margin, from the chosen side; the rejected side's must be its negative."""
    chosen, rejected = number(margin + 0.7).requires_grad_(), number(0.7).requires_grad_()
    up, down = torch.autograd.grad(loss(chosen, rejected, *rest), (chosen, rejected))
    assert up == -down
    return up.item()


P2 = {
    "reverse_kl": (ReverseKl(), 0.6539469673), "forward_kl": (ForwardKl(), 0.6566712851), "jensen_shannon": (JensenShannon(), 0.6743140211),
    "hellinger": (Hellinger(), 0.6741788897), "alpha_0.3": (Alpha(alpha=0.3), 0.6549929733), "pearson": (Pearson(), 0.6064726656),
    "neyman": (Neyman(), 0.6230764016), "jeffreys": (Jeffreys(), 0.6189551502), "tsallis_1.7": (Tsallis(q=1.7), 0.6219871058),
    "chi_squared_kl": (ChiSquaredKl(), 0.6113937712),
}


@pytest.mark.parametrize("name", P2)
def test_rows_18_to_22_the_pair(name: str):
    """log-ratios .5 and -.3, beta .1; row 22: the clip of chiPO at 2 R_max = 4 is far from its margin."""
    divergence, expected = P2[name]
    scores = link(divergence, torch.tensor([0.5, -0.3], dtype=torch.float64), 40.0)
    close(sigmoid(*scores, 0.1), expected)
    assert abs(0.1 * (scores[0] - scores[1])) < 4


@pytest.mark.parametrize(("loss", "smoothing", "expected"), [
    (sigmoid, 0.0, 0.693147181), (hinge, 0.0, 1.0), (ipo, 0.0, 25.0), (robust, 0.2, 0.693147181), (cdpo, 0.2, 0.693147181)])
def test_row_70_at_the_reference(loss: Callable[..., Tensor], smoothing: float, expected: float):
    close(loss(number(0.0), number(0.0), 0.1, smoothing), expected, 9)


def test_row_36_a_reference_that_is_the_policy():
    """TR-DPO with alpha = 1 each step: the loss stays log 2, its gradient -beta/2 (grad chosen - grad rejected)."""
    close(sigmoid(number(0.0), number(0.0), 0.3), math.log(2), 15)
    assert slope(sigmoid, 0.0, 0.3) == pytest.approx(-0.15, rel=1e-15)


@pytest.mark.parametrize("margin", [-7.0, -0.4, 0.0, 1.3, 30.0])
def test_losses_as_their_papers_write_them(margin: float):
    beta, e = 0.4, 0.15
    p = 1 / (1 + math.exp(-beta * margin))
    expected = {
        "sigmoid": -math.log(p), "hinge": max(0.0, 1 - beta * margin), "ipo": (margin - 1 / (2 * beta)) ** 2,
        "cdpo": -(1 - e) * math.log(p) - e * math.log(1 - p),
        "robust": (-(1 - e) * math.log(p) + e * math.log(1 - p)) / (1 - 2 * e),
    }
    for name, loss in LOSSES.items():
        torch.testing.assert_close(loss(number(margin), number(0.0), beta, e), number(expected[name]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_beta_may_differ_from_pair_to_pair(name: str):
    chosen, rejected = torch.tensor([[1.3, 1.3], [0.2, 0.2]], dtype=torch.float64)
    first, second = LOSSES[name](chosen, rejected, torch.tensor([0.4, 2.0], dtype=torch.float64), 0.1)
    assert first == LOSSES[name](chosen[0], rejected[0], 0.4, 0.1) != second == LOSSES[name](chosen[0], rejected[0], 2.0, 0.1)


def test_only_the_smoothed_losses_read_the_smoothing():
    for name, loss in LOSSES.items():
        same = torch.equal(loss(number(1.0), number(0.5), 0.3, 0.0), loss(number(1.0), number(0.5), 0.3, 0.2))
        assert same == (name not in preference.SMOOTHED)
    assert all(torch.equal(f(number(1.0), number(0.5), 0.3, 0.0), sigmoid(number(1.0), number(0.5), 0.3)) for f in (cdpo, robust))


@pytest.mark.parametrize("margin", [-400.0, 400.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_margin_far_out_is_finite_in_float32(name: str, margin: float):
    chosen = torch.tensor(margin, requires_grad=True)
    loss = LOSSES[name](chosen, torch.tensor(0.0), 1.0, 0.1)
    assert loss.isfinite() and torch.autograd.grad(loss, chosen)[0].isfinite()


@pytest.mark.parametrize("e", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.5])
def test_row_71_robust_dpo_is_unbiased_under_flips(margin: float, e: float):
    """Value and gradient: the mean over labels flipped with probability e is the DPO loss of the true labels."""
    found, expected = [], []
    for loss, probability, turned in ((robust, 1 - e, 1), (robust, e, -1)):
        chosen, rejected = (number(margin), number(0.0))[::turned]
        found.append(probability * loss(chosen, rejected, 0.7, e))
        expected.append(probability * turned * slope(robust, turned * margin, 0.7, e))
    close(sum(found), sigmoid(number(margin), number(0.0), 0.7).item(), 13)
    assert sum(expected) == pytest.approx(slope(sigmoid, margin, 0.7), abs=1e-14)


@pytest.mark.parametrize("e", [0.2, 0.01])
def test_row_72_cdpo_stops_at_its_own_certainty(e: float):
    at = math.log((1 - e) / e) / 0.3
    assert slope(cdpo, at, 0.3, e) == pytest.approx(0, abs=1e-15)
    assert slope(cdpo, at - 0.1, 0.3, e) < -1e-5 < 1e-5 < slope(cdpo, at + 0.1, 0.3, e)


@pytest.mark.parametrize("p", [0.5, 0.7, 1.0])
def test_row_73_ipo_stops_at_the_probability_of_the_label(p: float):
    """Labels that hold with probability p: the stationary margin is (p - 1/2)/beta, finite where all agree."""
    beta = 0.2

    def expected_slope(margin: float) -> float:
        return p * slope(ipo, margin, beta) - (1 - p) * slope(ipo, -margin, beta)

    at = (p - 0.5) / beta
    assert expected_slope(at) == pytest.approx(0, abs=1e-13)
    assert expected_slope(at - 0.1) < -0.1 < 0.1 < expected_slope(at + 0.1)


# The population's optimum. Five answers; labels by Bradley-Terry from the rewards; pairs drawn unevenly.


REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0], dtype=torch.float64)
REF = torch.tensor([0.10, 0.30, 0.20, 0.15, 0.25], dtype=torch.float64)
DRAWN = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).triu(1)


def bisected(increasing: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The argument in [-60, 60] at which an increasing function reaches the target, elementwise."""
    low, high = torch.full_like(target, -60.0), torch.full_like(target, 60.0)
    for _ in range(200):
        middle = (low + high) / 2
        below = increasing(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


INVERSES: dict[str, tuple[Divergence, Callable[[Tensor], Tensor], float]] = {
    "reverse_kl": (ReverseKl(), torch.exp, math.inf),
    "forward_kl": (ForwardKl(), lambda x: 1 / (1 - x), 1.0),
    "jensen_shannon": (JensenShannon(), lambda x: x.exp() / (2 - x.exp()), math.log(2)),
    "alpha_0.3": (Alpha(alpha=0.3), lambda x: (1 - 0.3 * x) ** (-1 / 0.3), 1 / 0.3),
    "hellinger": (Hellinger(), lambda x: (1 - x) ** -2, 1.0),
    "neyman": (Neyman(), lambda x: (1 - x) ** -0.5, 1.0),
    "tsallis_0.5": (Tsallis(q=0.5), lambda x: (1 - x) ** -2, 1.0),
    "jeffreys": (Jeffreys(), lambda x: bisected(lambda y: y + 1 - (-y).exp(), x).exp(), math.inf),
    "chi_squared_kl": (ChiSquaredKl(), lambda x: bisected(lambda y: y + y.exp() - 1, x).exp(), math.inf),
}
"""u = (f')^{-1}(x) by hand, f' taken with f'(1) = 0, and the bound of f' that x must stay below."""


def optimum(inverse: Callable[[Tensor], Tensor], bound: float, rewards: Tensor, beta: float, ref: Tensor) -> Tensor:
    """ref (f')^{-1}((R - lambda)/beta), lambda so that it sums to 1: what maximises E R - beta D_f(pi||ref)."""
    low = rewards.max().item() - beta * min(bound, 50.0) + 1e-13  # the sum of the optimum falls with lambda
    high = low + 100.0
    for _ in range(200):
        middle = (low + high) / 2
        too_much = (ref * inverse((rewards - middle) / beta)).sum() > 1
        low, high = (middle, high) if too_much else (low, middle)
    return ref * inverse((rewards - high) / beta)


def population_gradient(pi: Tensor, ref: Tensor, divergence: Divergence, beta: float, rewards: Tensor = REWARDS) -> Tensor:
    """Of the expected DPO loss, in the logits of the policy."""
    logits = pi.log().requires_grad_()
    scores = link(divergence, torch.log_softmax(logits, -1) - ref.log(), 40.0)
    i, j = DRAWN.nonzero(as_tuple=True)
    wins = torch.sigmoid(rewards[i] - rewards[j])
    loss = wins * sigmoid(scores[i], scores[j], beta) + (1 - wins) * sigmoid(scores[j], scores[i], beta)
    return torch.autograd.grad((DRAWN[i, j] * loss).sum(), logits)[0]


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", INVERSES)
def test_row_24_f_dpo_is_stationary_at_the_regularised_optimum(name: str, beta: float):
    divergence, inverse, bound = INVERSES[name]
    pi = optimum(inverse, bound, REWARDS, beta, REF)
    assert pi.sum().item() == pytest.approx(1, abs=1e-11) and pi.min() > 0 and (pi - REF).abs().max() > 0.02
    assert population_gradient(pi, REF, divergence, beta).abs().max() < 1e-11
    elsewhere = (pi + torch.tensor([0.02, -0.02, 0, 0, 0])).clamp_min(1e-6)
    assert population_gradient(elsewhere / elsewhere.sum(), REF, divergence, beta).abs().max() > 1e-4


def test_row_74_dpo_is_stationary_at_the_tilted_reference():
    pi = REF * (REWARDS / 0.5).exp()
    pi = pi / pi.sum()
    assert population_gradient(pi, REF, ReverseKl(), 0.5).abs().max() < 1e-15
    torch.testing.assert_close(optimum(torch.exp, math.inf, REWARDS, 0.5, REF), pi, rtol=1e-12, atol=0)
    other_links = [d for d, _, _ in INVERSES.values() if not isinstance(d, ReverseKl)]
    assert all(population_gradient(pi, REF, d, 0.5).abs().max() > 1e-3 for d in other_links)


def test_rows_36_and_37_every_hard_reset_divides_beta():
    """TR-DPO solved exactly between its resets: after m of them the policy is that of beta/m, with alpha = 0 that of beta."""

    def tilted(times: int) -> Tensor:
        return torch.softmax(REF.log() + times * REWARDS / 1.5, -1)

    for resets in (1, 2, 3):
        assert population_gradient(tilted(resets), tilted(resets - 1), ReverseKl(), 1.5).abs().max() < 1e-15
        assert population_gradient(tilted(resets), REF, ReverseKl(), 1.5 / resets).abs().max() < 1e-15
    assert population_gradient(tilted(2), REF, ReverseKl(), 1.5).abs().max() > 1e-2


@pytest.mark.parametrize("loss", [cdpo, robust])
def test_flipped_labels_move_the_optimum_of_cdpo_but_not_of_robust_dpo(loss: Callable[..., Tensor]):
    """Labels of the same Bradley-Terry model, a fifth of them flipped; cDPO at its own optimum is flatter than the rewards."""
    logits = (REF.log() + REWARDS / 0.5).requires_grad_()
    scores = torch.log_softmax(logits, -1) - REF.log()
    i, j = DRAWN.nonzero(as_tuple=True)
    wins = 0.2 + 0.6 * torch.sigmoid(REWARDS[i] - REWARDS[j])
    total = wins * loss(scores[i], scores[j], 0.5, 0.2) + (1 - wins) * loss(scores[j], scores[i], 0.5, 0.2)
    gradient = torch.autograd.grad((DRAWN[i, j] * total).sum(), logits)[0]
    assert (gradient.abs().max() < 1e-15) == (loss is robust)
