"""Losses of demonstrations: rows 51 and 58 of the oracle table and the additions of section O2, by their definitions over all tokens.

`s` are logits [V], `y` the demonstrated token; values and gradients are autograd's through the definition, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from golden.methods_table.toys import G5, close
from helpers.enumeration import NAME, Problem
from torch import Tensor

from align.likelihoods import Likelihood
from align.likelihoods.dft import Dft
from align.likelihoods.ldr_kl import LdrKl
from align.likelihoods.nll import Nll
from align.likelihoods.power import Power
from align.likelihoods.sel import Sel
from align.likelihoods.symmetric_ce import SymmetricCe

V = 5
TEACHER = torch.tensor([0.30, 0.10, 0.25, 0.20, 0.15], dtype=torch.float64)
Definition = Callable[[Tensor, int], Tensor]


def logits(seed: int) -> Tensor:
    return Problem(V).random(seed)[0]


def losses(likelihood: Likelihood, s: Tensor) -> Tensor:
    """Of each token of the vocabulary as the demonstrated one, [V]."""
    ctx = Problem(V).context(s[None], None, TEACHER.log()[None])
    rescaled = None if likelihood.rescaled is None else torch.log_softmax(s / likelihood.rescaled, -1)
    batch = replace(ctx.batch, teacher_logp=TEACHER.log())
    return likelihood.losses(replace(ctx, batch=batch, rescaled_logp=rescaled))


def probability(s: Tensor, y: int) -> Tensor:
    return torch.softmax(s, -1)[y]


def comp_sum(tau: float) -> Definition:
    """Phi_tau of the sum over tokens, not of p (Mao, Mohri and Zhong 2023)."""

    def phi(s: Tensor, y: int) -> Tensor:
        total = (s - s[y]).exp().sum()
        return total.log() if tau == 1 else (total ** (1 - tau) - 1) / (1 - tau)

    return phi


def reverse_cross_entropy(s: Tensor, y: int) -> Tensor:
    """-sum_k p_k log q_k, q one-hot, log 0 := -4 (Wang et al. 2019)."""
    log_q = torch.full((V,), -4.0, dtype=torch.float64)
    log_q[y] = 0.0
    return -(torch.softmax(s, -1) * log_q).sum()


def ldr(lam: float, margin: float) -> Definition:
    """lam log sum_k exp(d_k/lam)."""

    def definition(s: Tensor, y: int) -> Tensor:
        d = margin * (torch.arange(V) != y).double() + s - s[y]
        return lam * torch.logsumexp(d / lam, -1)

    return definition


CASES: dict[str, tuple[Likelihood, Definition]] = {
    "nll": (Nll(), lambda s, y: -probability(s, y).log()),
    **{f"power {a:g}": (Power(alpha=a), lambda s, y, a=a: (1 - probability(s, y) ** a) / a) for a in (-0.9, -0.5, 0.3, 0.7, 1.0, 10.0)},
    **{f"comp-sum {1 + a:g}": (Power(alpha=a), comp_sum(1 + a)) for a in (-0.5, 0.0, 0.7, 1.0)},
    "symmetric_ce": (SymmetricCe(alpha=0.1, beta=1.0), lambda s, y: -0.1 * probability(s, y).log() + reverse_cross_entropy(s, y)),
    "symmetric_ce (w)": (SymmetricCe(alpha=0.3, beta=0.7), lambda s, y: -0.3 * probability(s, y).log() + 0.7 * 4 * (1 - probability(s, y))),
    **{f"ldr_kl {lam:g} {c:g}": (LdrKl(lam=lam, margin=c), ldr(lam, c)) for lam, c in ((0.5, 0.0), (2.0, 0.0), (1.0, 0.4), (0.3, 1.2))},
    "sel": (Sel(), lambda s, y: 0.5 * (probability(s, y).log() - TEACHER[y].log()) ** 2),
    "sel, of a reference": (Sel(teacher=NAME), lambda s, y: 0.5 * (probability(s, y).log() - TEACHER[y].log()) ** 2),
}


@pytest.mark.parametrize(("likelihood", "definition"), CASES.values(), ids=CASES)
def test_value_and_gradient_are_those_of_the_definition(likelihood: Likelihood, definition: Definition):
    for seed in range(3):
        s = logits(seed).requires_grad_()
        found, expected = losses(likelihood, s), torch.stack([definition(s, y) for y in range(V)])
        close(found, expected.detach(), 12)
        for y in range(V):
            (mine,), (its,) = (torch.autograd.grad(x[y], s, retain_graph=True) for x in (found, expected))
            close(mine, its, 12)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.7, 1.0, 3.0])
def test_row_51_the_gradient_in_the_tokens_logit(alpha: float):
    s = G5[0].log().requires_grad_()
    for y, p in enumerate(G5[0].tolist()):
        (gradient,) = torch.autograd.grad(losses(Power(alpha=alpha), s)[y], s)
        close(gradient[y], -(p**alpha) * (1 - p), 14)


def test_row_51_the_gradient_of_dft_is_that_of_the_probability():
    s = logits(1).requires_grad_()
    dft, power = losses(Dft(), s), losses(Power(alpha=1.0), s)
    close(dft, -probability(s, torch.arange(V)) * torch.log_softmax(s, -1), 14)
    for y in range(V):
        close(*(torch.autograd.grad(x[y], s, retain_graph=True)[0] for x in (dft, power)), 14)


def test_row_58_the_reverse_cross_entropy_of_a_label():
    close(losses(SymmetricCe(alpha=0.0), G5[0].log()), 4 * (1 - G5[0]), 12)


@pytest.mark.parametrize(("lam", "margin"), [(0.5, 0.0), (2.0, 0.7)])
def test_ldr_kl_is_the_worst_distribution_near_the_uniform_one(lam: float, margin: float):
    """max_q <q, d> - lam KL(q||uniform), up to lam log K; the maximum is at q = softmax(d/lam)."""
    s = logits(2)
    found = losses(LdrKl(lam=lam, margin=margin), s)
    for y in range(V):
        d = margin * (torch.arange(V) != y).double() + s - s[y]
        best, others = torch.softmax(d / lam, -1), [torch.softmax(d / lam + 0.1 * logits(seed), -1) for seed in (3, 4)]
        at_best, *at_others = ((q * d).sum() - lam * (q * (q * V).log()).sum() for q in (best, *others))
        close(at_best, found[y] - lam * math.log(V), 12)
        assert max(at_others) < at_best


@pytest.mark.parametrize("lam", [0.25, 0.5, 0.9])
def test_ldr_kl_without_a_margin_is_the_likelihood_beside_a_renyi_divergence_from_uniform(lam: float):
    s, q = logits(4), 1 / lam
    renyi = torch.log((torch.softmax(s, -1) ** q * V ** (q - 1)).sum()) / (q - 1)
    close(losses(LdrKl(lam=lam), s), losses(Nll(), s) + (1 - lam) * (renyi - math.log(V)), 12)


MINIMISERS = {
    "nll": (Nll(), TEACHER.log()),
    **{f"power {a:g}": (Power(alpha=a), TEACHER.log() / (1 - a)) for a in (-0.5, 0.3, 0.7)},
    **{f"ldr_kl {lam:g}": (LdrKl(lam=lam), lam * TEACHER.log()) for lam in (0.5, 3.0)},
    "sel": (Sel(), TEACHER.log()),
}


@pytest.mark.parametrize(("likelihood", "at"), MINIMISERS.values(), ids=MINIMISERS)
def test_the_population_minimiser(likelihood: Likelihood, at: Tensor):
    """Labels drawn from TEACHER: no gradient at the minimiser, and a larger loss around it."""
    s = at.clone().requires_grad_()
    loss = (TEACHER * losses(likelihood, s)).sum()
    (gradient,) = torch.autograd.grad(loss, s)
    close(gradient, torch.zeros(V), 14)
    assert all((TEACHER * losses(likelihood, at + 0.1 * logits(seed))).sum() > loss for seed in range(4))


def test_a_cross_entropy_weighed_by_the_teacher_learns_its_square():
    """What SEL is used instead of: minimised at softmax(2 log T) (lemma 4.2), not at T."""

    def slope(at: Tensor) -> float:
        s = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-(TEACHER * TEACHER * torch.log_softmax(s, -1)).sum(), s)
        return gradient.abs().max().item()

    assert slope(2 * TEACHER.log()) < 1e-15 < 1e-3 < slope(TEACHER.log())


@pytest.mark.parametrize("likelihood", [Power(alpha=-0.9), Power(alpha=5.0), LdrKl(lam=0.1, margin=2.0), SymmetricCe(), Dft(), Sel()])
def test_tokens_without_probability_and_certain_ones_stay_finite_in_float32(likelihood: Likelihood):
    for s in (torch.tensor([0.0, -500.0, 300.0, -1.0, 2.0]), torch.tensor([90.0, 0.0, 0.0, 0.0, 0.0])):
        leaf = s.requires_grad_()
        ctx = Problem(V).context(leaf.detach().double()[None], None, TEACHER.log()[None])
        again = 1.0 if likelihood.rescaled is None else likelihood.rescaled
        logp, rescaled = torch.log_softmax(leaf, -1), torch.log_softmax(leaf / again, -1)
        ctx = replace(ctx, logp=logp, rescaled_logp=rescaled, batch=replace(ctx.batch, teacher_logp=TEACHER.float().log()))
        found = likelihood.losses(ctx)
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        assert found.dtype == torch.float32 and found.isfinite().all() and gradient.isfinite().all()


def test_a_power_that_overflows_goes_on_along_its_tangent():
    logp = torch.tensor([-700.0, -800.0], requires_grad=True)
    ctx = replace(Problem(2).context(torch.zeros(1, 2).double(), None, torch.zeros(1, 2).double()), logp=logp)
    found = Power(alpha=-0.8).losses(ctx)
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert gradient.tolist() == pytest.approx([-math.exp(80)] * 2, rel=1e-5)
    assert (found[1] - found[0]).item() == pytest.approx(100 * math.exp(80), rel=1e-4)


@pytest.mark.parametrize(
    ("part", "keys", "says"),
    [
        (Power, {"alpha": -1.0}, "alpha must be above -1"),
        (Power, {"alpha": math.inf}, "finite"),
        (SymmetricCe, {"alpha": 0.0, "beta": 0.0}, "not both 0"),
        (SymmetricCe, {"alpha": -0.1}, "at least 0"),
        (SymmetricCe, {"log_zero": 0.0}, "log_zero must be negative"),
        (LdrKl, {"lam": 0.0}, "lam must be positive"),
        (LdrKl, {"lam": 0.5, "margin": -1.0}, "margin at least 0"),
        (LdrKl, {"lam": 0.01, "margin": 1.0}, "at most 80 lam"),
        (LdrKl, {"lam": 1.0}, "use nll"),
    ],
)
def test_keys_that_make_no_sense(part: type, keys: dict, says: str):
    with pytest.raises(ValueError, match=says):
        part(**keys)
