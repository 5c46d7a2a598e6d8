"""The published estimators of KL(pi||ref): their values, and exactly the bias each is known for."""

from __future__ import annotations

import pytest
import torch
from helpers.enumeration import NAME, Problem, gradient
from torch import Tensor
from unit.regularizer_oracles.cells import (
    BIASED,
    CELLS,
    MEANINGLESS,
    OF_KL,
    PLUS,
    SINGLE,
    TOLERANCE,
    TREES,
    assert_close,
    composed,
    context,
    expected_gradient,
    objective,
    setting,
)


def reverse_kl(u):
    return u * u.log()


def forward_kl(u):
    return -u.log()


def k2_functional(u):
    """Not convex below 1/e, so no divergence: what the mean of k2 is."""
    return 0.5 * u * u.log() ** 2


def abs_functional(u):
    """What the mean of |log u| is; not convex either."""
    return u * u.log().abs()


def twice_total_variation(u):
    return (u - 1).abs()


ESTIMATES = {"k1": lambda d: -d, "k2": lambda d: 0.5 * d**2, "k3": lambda d: torch.exp(d) - 1 - d, "abs": torch.abs}
"""Of delta = log ref/pi."""


@pytest.mark.parametrize("cell", [c for c in CELLS if c not in MEANINGLESS and c[1] in OF_KL], ids="-".join)
def test_value_of_published_estimators(cell):
    """k1 and k3: KL(pi||ref) on-policy; k2 and abs: their own functionals. Off-policy none of them has a ratio: the mean is over pi_old."""
    functionals = {"k1": reverse_kl, "k2": k2_functional, "k3": reverse_kl, "abs": abs_functional}
    whose = cell[1].removesuffix("+")
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        ctx, _ = context(cell, problem)
        mean = (ctx.batch.loss_weights * composed(cell, allow_biased=True).penalty(ctx, NAME).value).sum()
        if cell[4] == "on":
            assert_close(mean, objective(cell, problem, logits, old, ref, functionals[whose]))
        else:
            assert_close(mean, mean_over_old(problem, cell[3], ESTIMATES[whose], logits, old, ref))


def mean_over_old(problem: Problem, credit: str, estimate, logits: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """E over pi_old of an estimate k(delta), delta = log ref/pi, of each token or (sequence) of the answer; differentiable in pi."""
    if credit == "sequence":
        return (problem.answer_logp(old).exp().detach() * estimate(problem.answer_logp(ref) - problem.answer_logp(logits))).sum()
    states = (torch.softmax(old, -1).detach() * estimate(torch.log_softmax(ref, -1) - torch.log_softmax(logits, -1))).sum(-1)
    return (problem.reach(old).detach() * states).sum()


@pytest.mark.parametrize("cell", sorted(c for c in BIASED if c[2] == "loss"), ids="-".join)
def test_bias_of_published_losses(cell):
    """methods A: on-policy k1 in the loss has gradient 0, k3 that of KL(ref||pi) and abs that of 2 TV; off-policy each is the plain loss
    over pi_old, the straight-through ones that of k2.

    There k1 climbs KL(pi_old||pi): `E_old[grad log pi] = -grad KL(pi_old||pi)`.
    """
    _, estimator, _, credit, policy = cell
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, policy)
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))
        if policy == "on" and estimator == "k1":
            assert_close(found, torch.zeros_like(found))
        elif policy == "on":
            f = {"k3": forward_kl, "abs": twice_total_variation}[estimator]
            other = gradient(lambda x, p=problem, ref=ref, f=f: objective(cell, p, x, None, ref, f), logits)
            assert other.abs().max() > 1e-2
            assert_close(found, other)
        else:
            estimate = ESTIMATES["k2" if estimator in PLUS else estimator]
            published = gradient(lambda x, p=problem, old=old, ref=ref, e=estimate: mean_over_old(p, credit, e, x, old, ref), logits)
            assert published.abs().max() > 1e-2
            assert_close(found, published)
        if policy == "off" and estimator == "k1":
            away = gradient(lambda x, p=problem, old=old: objective(cell, p, x, old, old, forward_kl), logits)
            assert_close(found, -away)


@pytest.mark.parametrize("cell", sorted(c for c in BIASED if c[1:3] != ("k1", "reward") and c[2] == "reward"), ids="-".join)
def test_bias_of_published_rewards(cell):
    """For its own token k3 in the reward has grad_rev - grad_fwd, k2 grad E_pi[k2] - grad_rev and abs grad E_pi|k1| - grad 2 TV.

    Summed, the tokens that follow answer with their value: for k3 the bias stays with the own token; for the others the whole is
    the gradient of the summed functional minus the own tokens' other term. Beyond the own token off-policy, single tokens only.
    """
    _, estimator, _, credit, policy = cell
    claimed, wrong = {"k2": (k2_functional, reverse_kl), "k3": (reverse_kl, forward_kl), "abs": (abs_functional, twice_total_variation)}[
        estimator
    ]
    own = (*cell[:3], "local" if credit == "summed" else credit, policy)
    for problem in SINGLE if credit != "local" and policy == "off" else TREES + SINGLE:
        logits, old, ref = setting(problem, policy)
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))

        def bias(f, g, x, problem=problem, old=old, ref=ref, logits=logits):
            behaviour = logits if old is None else old
            return objective(cell, problem, x, old, ref, f) - objective(own, problem, x, behaviour, ref, g)

        published = gradient(lambda x, bias=bias: bias(claimed, wrong, x), logits)
        assert published.abs().max() > 1e-2
        assert_close(found, published)


def test_k3_in_the_reward_vanishes_to_first_order_near_the_reference():
    """Halving the distance to the reference quarters the pull; a KL's would halve (methods A)."""
    problem, cell = Problem(6), ("reverse_kl", "k3", "reward", "local", "on")
    ref, direction = problem.random(2), problem.random(1)
    sizes = []
    for step in (0.02, 0.01):
        leaf = (ref + step * direction).requires_grad_()
        ctx = problem.context(leaf, None, ref)
        sizes.append(expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME)).norm())
    assert 3.9 < sizes[0] / sizes[1] < 4.1


@pytest.mark.parametrize("credit", ["summed", "sequence"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_published_rewards_off_policy(estimator, credit):
    """On trees: what the surrogate makes of a return, `sum_y pi_old(y) sum_t rho_t sg(sum of the estimates credited to t)`."""
    cell = ("reverse_kl", estimator, "reward", credit, "off")
    for problem in TREES:
        logits, old, ref = setting(problem, "off")
        ctx, leaf = context(cell, problem)
        found = expected_gradient(ctx, leaf, composed(cell, allow_biased=True).penalty(ctx, NAME))
        x = logits.clone().requires_grad_()
        steps, answers = problem.steps(), problem.answer_logp(old).exp()
        logp, before = problem.token_logp(x), problem.token_logp(old)
        delta = (problem.token_logp(ref) - logp).detach()
        total = torch.zeros(())
        for i, (answer, position, _, _) in enumerate(steps):
            mine = [j for j, step in enumerate(steps) if step[0] == answer]
            if credit == "summed":
                taken = sum(ESTIMATES[estimator](delta[j]) for j in mine if steps[j][1] >= position)
            else:
                taken = ESTIMATES[estimator](delta[mine].sum())
            total = total + answers[answer] * torch.exp(logp[i] - before[i]) * taken
        assert_close(found, torch.autograd.grad(total, x)[0])


@pytest.mark.parametrize("credit", ["summed", "sequence"])
def test_k1_beyond_the_own_token_is_first_order_in_the_reward_off_policy(credit):
    """Its answers are weighed by a token's ratio alone: the gap is real and shrinks with pi_old - pi_theta. `sampled` has none."""
    problem = TREES[0]
    logits, ref, direction = problem.random(1), problem.random(2), problem.random(3)
    exact = gradient(lambda x: objective(("reverse_kl", "k1", "reward", credit, "off"), problem, x, None, ref), logits)
    for estimator, is_exact in (("k1", False), ("sampled", True)):
        cell, gaps = ("reverse_kl", estimator, "reward", credit, "off"), []
        for step in (1e-2, 1e-4):
            leaf = logits.clone().requires_grad_()
            ctx = problem.context(leaf, logits + step * direction, ref)
            gaps.append((expected_gradient(ctx, leaf, composed(cell, not is_exact).penalty(ctx, NAME)) - exact).norm())
        if is_exact:
            assert max(gaps) < TOLERANCE
        else:
            assert gaps[0] > 1e-4 and 80 < gaps[0] / gaps[1] < 120
