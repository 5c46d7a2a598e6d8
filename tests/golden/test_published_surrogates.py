"""What the published KL surrogates optimise, by exact enumeration, and that each of ours is the one its name says.

The figures are those of a survey of the field's trainers, made without align: relative error and cosine of the expected gradient
against grad KL(pi||ref). The surrogates are written here as those trainers write them and differentiated by autograd. First one
token of six outcomes, on-policy and off it (samples of pi_old, one stale step away); then answers of three tokens over four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from helpers.enumeration import NAME, Problem, gradient, local_objective, summed_objective
from torch import Tensor
from unit.regularizer_oracles.cells import told

from align.coefficients.constant import Constant
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.estimators.exact import Exact
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3
from align.estimators.sampled import Sampled
from align.estimators.straight_through import StraightThrough
from align.regularizers.composed import Composed
from align.weightings.uniform import Uniform

# The survey's draw (a standard normal, seed 0, the reference 1.5 times another, pi_old 0.3 of a third away) to four decimals.
POLICY = torch.tensor([1.5410, -0.2934, -2.1788, 0.5684, -1.0845, -1.3986], dtype=torch.float64)
REFERENCE = torch.tensor([0.6050, 1.2570, -1.0789, -0.6050, -0.8950, 0.2731], dtype=torch.float64)
STALE = torch.tensor([1.2840, 0.0368, -2.5001, 0.6052, -1.2544, -1.2867], dtype=torch.float64)


class Row(NamedTuple):
    name: str
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Of delta = log ref/pi and rho = pi/pi_old, both differentiable, and rho without its gradient."""
    on: str
    """`exact`, `zero` (the vector), or the relative error to two digits, with the cosine where the survey gives it."""
    off: str
    ours: tuple[Estimator, str] | None = None
    """Estimator and placement."""


def k1(d):
    return -d


def k2(d):
    return 0.5 * d**2


def k3(d):
    return torch.exp(d) - 1 - d


def plus(k):
    """verl's straight-through: the value of k, the gradient of k2."""
    return lambda d: k(d).detach() + k2(d) - k2(d).detach()


TABLE = [
    Row("k1 in loss", lambda d, rho, sg: k1(d), "zero", "1.25, cos -0.69", (K1(), "loss")),
    Row("k2 in loss", lambda d, rho, sg: k2(d), "exact", "0.29", (K2(), "loss")),
    Row("k1+ in loss", lambda d, rho, sg: plus(k1)(d), "exact", "0.29", (StraightThrough(of="k1"), "loss")),
    Row("k3+ in loss", lambda d, rho, sg: plus(k3)(d), "exact", "0.29", (StraightThrough(of="k3"), "loss")),
    Row("k3 in loss", lambda d, rho, sg: k3(d), "0.70", "1.30", (K3(), "loss")),
    Row("rho attached, k1", lambda d, rho, sg: rho * k1(d), "exact", "exact"),
    Row("rho attached, k3", lambda d, rho, sg: rho * k3(d), "exact", "exact", (Sampled(), "loss")),
    Row("rho attached, k2", lambda d, rho, sg: rho * k2(d), "0.34", "0.34"),
    Row("rho detached, k2", lambda d, rho, sg: sg * k2(d), "exact", "exact"),
    Row("rho detached, k1", lambda d, rho, sg: sg * k1(d), "zero", "zero"),
    Row("rho detached, k3", lambda d, rho, sg: sg * k3(d), "0.70", "0.70"),
    Row("k1 in reward", lambda d, rho, sg: rho * k1(d).detach(), "exact", "exact", (K1(), "reward")),
    Row("k3 in reward", lambda d, rho, sg: rho * k3(d).detach(), "1.67, cos -0.93", "1.67, cos -0.93", (K3(), "reward")),
    Row("sampled in reward", lambda d, rho, sg: rho * k1(d).detach(), "exact", "exact", (Sampled(), "reward")),
    Row("full vocabulary", lambda d, rho, sg: sg * k2(d), "exact", "exact", (Exact(), "loss")),
]
by_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
each_policy = pytest.mark.parametrize("policy", ["on", "off"])


def kl_gradient(direction: str) -> Tensor:
    x = POLICY.clone().requires_grad_()
    pi, ref = torch.log_softmax(x, -1), torch.log_softmax(REFERENCE, -1)
    kl = (pi.exp() * (pi - ref)).sum() if direction == "reverse" else (ref.exp() * (ref - pi)).sum()
    return torch.autograd.grad(kl, x)[0]


def expected_gradient(row: Row, policy: str) -> Tensor:
    """Of the surrogate, its mean taken over the outcomes of the policy that drew them."""
    x = POLICY.clone().requires_grad_()
    logp = torch.log_softmax(x, -1)
    old = torch.log_softmax(STALE, -1) if policy == "off" else logp.detach()
    rho = torch.exp(logp - old)
    return torch.autograd.grad((old.exp() * row.loss(torch.log_softmax(REFERENCE, -1) - logp, rho, rho.detach())).sum(), x)[0]


def error_and_cosine(found: Tensor, truth: Tensor) -> tuple[float, float]:
    return ((found - truth).norm() / truth.norm()).item(), torch.cosine_similarity(found.flatten(), truth.flatten(), 0).item()


@by_row
@each_policy
def test_the_conformance_table(row, policy):
    stated, found, truth = getattr(row, policy), expected_gradient(row, policy), kl_gradient("reverse")
    error, cosine = error_and_cosine(found, truth)
    if stated == "exact":
        assert error < 1e-14
    elif stated == "zero":
        assert found.norm() < 1e-15
    else:
        assert stated == (f"{error:.2f}, cos {cosine:.2f}" if "cos" in stated else f"{error:.2f}")


def test_k3_in_the_loss_descends_the_forward_kl():
    k3_in_loss = next(row for row in TABLE if row.name == "k3 in loss")
    torch.testing.assert_close(expected_gradient(k3_in_loss, "on"), kl_gradient("forward"), rtol=1e-13, atol=1e-15)


def pull(regularizer: Composed, problem: Problem, logits: Tensor, old: Tensor | None, ref: Tensor) -> Tensor:
    """The expected gradient of a regularizer of ours; in the reward through the unclipped surrogate."""
    leaf = logits.clone().requires_grad_()
    ctx = problem.context(leaf, old, ref, regularizer.divergence)
    penalty = regularizer.penalty(ctx, NAME)
    loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
    return torch.autograd.grad((ctx.batch.loss_weights * loss).sum(), leaf)[0]


def composed(estimator: Estimator, placement: str = "loss", credit: str = "local") -> Composed:
    return Composed(
        divergence=ReverseKl(),
        estimator=estimator,
        coefficient=Constant(1.0),
        weighting=Uniform(),
        reference=None,
        placement=placement,
        credit=credit,
    )


@pytest.mark.parametrize("row", [row for row in TABLE if row.ours], ids=lambda row: row.name)
@each_policy
def test_ours_is_the_published_one_and_refused_where_it_is_wrong(row, policy):
    regularizer = composed(*row.ours)
    found = pull(regularizer, Problem(6), POLICY[None], STALE[None] if policy == "off" else None, REFERENCE[None])[0]
    torch.testing.assert_close(found, expected_gradient(row, policy), rtol=1e-12, atol=1e-14)
    refusal = told(regularizer, on_policy=policy == "on")
    assert (refusal is None) == (getattr(row, policy) == "exact")
    assert refusal is None or "allow_biased" in refusal


# Answers of three tokens


ANSWERS = Problem(4, 3)


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """The survey's: a standard normal policy, and a reference 0.8 of another away."""
    generator = torch.Generator().manual_seed(seed)
    policy, away = (torch.randn(21, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return policy, policy + 0.8 * away


def over_draws(estimator: Estimator, placement: str, credit: str) -> list[tuple[float, float]]:
    """Relative error and cosine against the gradient of `E sum_t KL_t`, for 20 draws."""
    found = []
    for policy, ref in map(draw, range(20)):
        truth = gradient(lambda x, ref=ref: summed_objective(lambda u: u * u.log(), ANSWERS, x, ref), policy)
        found.append(error_and_cosine(pull(composed(estimator, placement, credit), ANSWERS, policy, None, ref), truth))
    return found


@pytest.mark.parametrize("form", [(Sampled(), "loss", "local"), (Exact(), "loss", "local"), (K2(), "loss", "local")])
def test_without_the_future_a_correct_token_loss_is_not_the_gradient_of_the_answers_kl(form):
    errors, cosines = zip(*over_draws(*form), strict=True)
    assert (f"{sum(cosines) / 20:.3f}", f"{min(cosines):.3f}", f"{sum(errors) / 20:.2f}") == ("0.978", "0.911", "0.23")


@pytest.mark.parametrize(
    "form",
    [
        (K1(), "reward", "summed"),
        (K1(), "reward", "sequence"),
        (Sampled(), "reward", "summed"),
        (Sampled(), "loss", "summed"),
        (Sampled(), "loss", "sequence"),
        (Exact(), "loss", "summed"),
    ],
    ids=lambda form: f"{type(form[0]).__name__}-{form[1]}-{form[2]}",
)
def test_with_the_future_it_is(form):
    """Reward-to-go or the whole sum of k1; the full vocabulary with score times future KL (Rao-Blackwell)."""
    errors, _ = zip(*over_draws(*form), strict=True)
    assert max(errors) < 1e-12


def test_k3_of_answers_in_the_loss_and_in_the_reward():
    errors, _ = zip(*over_draws(K3(), "loss", "local"), strict=True)
    assert f"{sum(errors) / 20:.3f}" == "0.385"  # which the survey rounds once more, to 0.39
    policy, ref = draw(0)
    forward = gradient(lambda x: local_objective(lambda u: -u.log(), ANSWERS, x, policy, ref), policy)
    assert error_and_cosine(pull(composed(K3()), ANSWERS, policy, None, ref), forward)[0] < 1e-12
    _, cosines = zip(*over_draws(K3(), "reward", "summed"), strict=True)
    assert (f"{sum(cosines) / 20:+.2f}", f"{min(cosines):.2f}") == ("+0.07", "-0.68")
