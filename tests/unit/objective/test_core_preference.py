"""Preference losses: their published digits and their stationary margins. Their optimum: golden/test_preference_optimum.py."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.built import part, preference_loss
from torch import Tensor

from align.core.links import link
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
from align.errors import RecipeError

SMOOTHED = ("cdpo", "robust")
LOSSES = ("sigmoid", "hinge", "ipo", "plackett_luce", *SMOOTHED)


def loss(name: str, better: Tensor, worse: Tensor, beta: Tensor | float, e: float = 0.1) -> Tensor:
    return preference_loss(part("preference", name, **({"label_smoothing": e} if name in SMOOTHED else {})), better, worse, beta)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(actual: Tensor, expected: float, digits: int = 10) -> None:
    torch.testing.assert_close(actual, torch.full_like(actual, expected), rtol=0, atol=0.5000001 * 10.0**-digits)


def slope(name: str, margin: float, *rest: float) -> float:
    """dL/dD at D = margin, from the chosen side; the rejected side's must be its negative."""
    chosen, rejected = number(margin + 0.7).requires_grad_(), number(0.7).requires_grad_()
    up, down = torch.autograd.grad(loss(name, chosen, rejected, *rest), (chosen, rejected))
    assert up == -down
    return up.item()


P2 = {
    "reverse_kl": (ReverseKl(), 0.6539469673),
    "forward_kl": (ForwardKl(), 0.6566712851),
    "jensen_shannon": (JensenShannon(), 0.6743140211),
    "hellinger": (Hellinger(), 0.6741788897),
    "alpha_0.3": (Alpha(alpha=0.3), 0.6549929733),
    "pearson": (Pearson(), 0.6064726656),
    "neyman": (Neyman(), 0.6230764016),
    "jeffreys": (Jeffreys(), 0.6189551502),
    "tsallis_1.7": (Tsallis(q=1.7), 0.6219871058),
    "chi_squared_kl": (ChiSquaredKl(), 0.6113937712),
}


@pytest.mark.parametrize("name", P2)
def test_rows_18_to_22_the_pair(name: str):
    """log-ratios .5 and -.3, beta .1; row 22: the clip of chiPO at 2 R_max = 4 is far from its margin."""
    divergence, expected = P2[name]
    scores = link(divergence.grad_weight, torch.tensor([0.5, -0.3], dtype=torch.float64), 40.0)
    close(loss("sigmoid", *scores, 0.1), expected)
    assert abs(0.1 * (scores[0] - scores[1])) < 4


@pytest.mark.parametrize(
    ("name", "smoothing", "expected"),
    [("sigmoid", 0.0, 0.693147181), ("hinge", 0.0, 1.0), ("ipo", 0.0, 25.0), ("robust", 0.2, 0.693147181), ("cdpo", 0.2, 0.693147181)],
)
def test_row_70_at_the_reference(name: str, smoothing: float, expected: float):
    close(loss(name, number(0.0), number(0.0), 0.1, smoothing), expected, 9)


def test_row_36_a_reference_that_is_the_policy():
    """TR-DPO with alpha = 1 each step: the loss stays log 2, its gradient -beta/2 (grad chosen - grad rejected)."""
    close(loss("sigmoid", number(0.0), number(0.0), 0.3), math.log(2), 15)
    assert slope("sigmoid", 0.0, 0.3) == pytest.approx(-0.15, rel=1e-15)


@pytest.mark.parametrize("margin", [-7.0, -0.4, 0.0, 1.3, 30.0])
def test_losses_as_their_papers_write_them(margin: float):
    beta, e = 0.4, 0.15
    p = 1 / (1 + math.exp(-beta * margin))
    expected = {
        "sigmoid": -math.log(p),
        "hinge": max(0.0, 1 - beta * margin),
        "ipo": (margin - 1 / (2 * beta)) ** 2,
        "cdpo": -(1 - e) * math.log(p) - e * math.log(1 - p),
        "robust": (-(1 - e) * math.log(p) + e * math.log(1 - p)) / (1 - 2 * e),
    }
    expected["plackett_luce"] = expected["sigmoid"]  # of two answers
    for name in LOSSES:
        torch.testing.assert_close(loss(name, number(margin), number(0.0), beta, e), number(expected[name]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_beta_may_differ_from_pair_to_pair(name: str):
    chosen, rejected = torch.tensor([[1.3, 1.3], [0.2, 0.2]], dtype=torch.float64)
    first, second = loss(name, chosen, rejected, torch.tensor([0.4, 2.0], dtype=torch.float64))
    assert first == loss(name, chosen[0], rejected[0], 0.4) != second == loss(name, chosen[0], rejected[0], 2.0)


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("e", [0.0, 0.5, -0.1, 0.7])
def test_a_smoothing_that_says_nothing_is_refused(name: str, e: float):
    with pytest.raises(RecipeError, match=r"label_smoothing must lie in \(0, 1/2\)"):
        part("preference", name, label_smoothing=e)


@pytest.mark.parametrize("margin", [-400.0, 400.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_margin_far_out_is_finite_in_float32(name: str, margin: float):
    chosen = torch.tensor(margin, requires_grad=True)
    found = loss(name, chosen, torch.tensor(0.0), 1.0)
    assert found.isfinite() and torch.autograd.grad(found, chosen)[0].isfinite()


@pytest.mark.parametrize("e", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.5])
def test_row_71_robust_dpo_is_unbiased_under_flips(margin: float, e: float):
    """Value and gradient: the mean over labels flipped with probability e is the DPO loss of the true labels."""
    found, expected = [], []
    for probability, turned in ((1 - e, 1), (e, -1)):
        chosen, rejected = (number(margin), number(0.0))[::turned]
        found.append(probability * loss("robust", chosen, rejected, 0.7, e))
        expected.append(probability * turned * slope("robust", turned * margin, 0.7, e))
    close(sum(found), loss("sigmoid", number(margin), number(0.0), 0.7).item(), 13)
    assert sum(expected) == pytest.approx(slope("sigmoid", margin, 0.7), abs=1e-14)


@pytest.mark.parametrize("e", [0.2, 0.01])
def test_row_72_cdpo_stops_at_its_own_certainty(e: float):
    at = math.log((1 - e) / e) / 0.3
    assert slope("cdpo", at, 0.3, e) == pytest.approx(0, abs=1e-15)
    assert slope("cdpo", at - 0.1, 0.3, e) < -1e-5 < 1e-5 < slope("cdpo", at + 0.1, 0.3, e)


@pytest.mark.parametrize("p", [0.5, 0.7, 1.0])
def test_row_73_ipo_stops_at_the_probability_of_the_label(p: float):
    """Labels that hold with probability p: the stationary margin is (p - 1/2)/beta, finite where all agree."""
    beta = 0.2

    def expected_slope(margin: float) -> float:
        return p * slope("ipo", margin, beta) - (1 - p) * slope("ipo", -margin, beta)

    at = (p - 0.5) / beta
    assert expected_slope(at) == pytest.approx(0, abs=1e-13)
    assert expected_slope(at - 0.1) < -0.1 < 0.1 < expected_slope(at + 0.1)
