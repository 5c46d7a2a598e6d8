"""Every cell that is not refused and not biased: value and gradient are those of the divergence it claims."""

from __future__ import annotations

import pytest
import torch
from helpers.enumeration import NAME, gradient
from unit.regularizer_oracles.cells import (
    CREDITS,
    DIVERGENCES,
    ESTIMATORS,
    MEANINGLESS,
    OF_ANY,
    PLACEMENTS,
    SINGLE,
    TOLERANCE,
    TREES,
    UNBIASED,
    assert_close,
    composed,
    context,
    expected_gradient,
    objective,
    setting,
)


@pytest.mark.parametrize("cell", UNBIASED, ids="-".join)
def test_gradient_and_value_are_those_of_the_objective(cell):
    """In every placement, on- and off-policy, on trees too: an estimate of any divergence carries its own importance ratio in its value."""
    for problem in TREES + SINGLE:
        logits, old, ref = setting(problem, cell[4])
        ctx, leaf = context(cell, problem)
        penalty = composed(cell).penalty(ctx, NAME)
        assert (penalty.loss is None) == (cell[2] == "reward") and (penalty.reward is None) == (cell[2] == "loss")
        exact = gradient(lambda x, p=problem, old=old, ref=ref: objective(cell, p, x, old, ref), logits)
        assert exact.abs().max() > 1e-2
        assert_close(expected_gradient(ctx, leaf, penalty), exact)
        if cell[1] in OF_ANY:
            assert not penalty.value.requires_grad
            claimed = objective(cell, problem, logits, old, ref)
            assert claimed > 1e-2
            assert_close((ctx.batch.loss_weights * penalty.value).sum(), claimed)
            assert penalty.loss is None or torch.equal(penalty.loss.detach(), penalty.value), "a loss reads as its value"


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1] in ("exact", "top_2")], ids="-".join)
def test_exact_does_not_depend_on_the_token_drawn(cell):
    """Its value at a state is one number, off-policy too: only the ratio of the tokens before it may weigh it."""
    for problem in TREES:
        ctx, _ = context(cell, problem)
        value, prefix = composed(cell).penalty(ctx, NAME).value, torch.tensor(problem.steps())[:, 2]
        for state in range(len(problem.prefixes)):
            assert (value[prefix == state] - value[prefix == state][0]).abs().max() < 1e-14 * (1 + value.max())


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1] == "sampled" or (c[1] in OF_ANY and c[3] == "summed")], ids="-".join)
def test_an_engine_that_differs_from_the_learner_is_corrected(cell):
    """Drawn from mu, which is neither pi_theta nor pi_old; `ratio_to: sampler`. Without it the gradient is another."""
    problem = TREES[1]
    logits, _, ref = setting(problem, cell[4])
    mu = logits + 0.5 * problem.random(4)
    exact = gradient(lambda x: objective(cell, problem, x, mu, ref), logits)
    gaps = []
    for ratio_to in ("sampler", "old"):
        ctx, leaf = context(cell, problem, mu)
        penalty = composed(cell, ratio_to=ratio_to).penalty(ctx, NAME)
        gaps.append((expected_gradient(ctx, leaf, penalty) - exact).abs().max())
        if ratio_to == "sampler":
            assert_close((ctx.batch.loss_weights * penalty.value).sum(), objective(cell, problem, logits, mu, ref))
    assert gaps[0] < TOLERANCE and gaps[1] > 1e-4


@pytest.mark.parametrize("cell", [c for c in UNBIASED if c[1:3] == ("sampled", "loss") and c[4] == "off"], ids="-".join)
def test_both_placements_are_one_gradient_sample_by_sample(cell):
    """The surrogate's ratio is divided out, so where nothing is clipped each answer pulls alike from either place, capped or not."""
    problem = TREES[1]
    for keys in ({}, {"ratio_cap": 1.1}, {"ratio_cap": 1.1, "beyond_cap": "mask"}, {"clamp": 0.4}):
        pulls = []
        for placement in PLACEMENTS:
            ctx, _ = context((*cell[:2], placement, *cell[3:]), problem)
            penalty = composed((*cell[:2], placement, *cell[3:]), **keys).penalty(ctx, NAME)
            loss = penalty.loss if penalty.reward is None else torch.exp(ctx.log_rho) * penalty.reward
            pulls.append(torch.autograd.grad(loss.sum(), ctx.logp)[0])
        torch.testing.assert_close(*pulls, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("estimator", OF_ANY)
def test_at_the_reference_nothing_pulls(estimator, placement, credit):
    """pi = ref: value 0 and expected gradient 0 for every divergence."""
    for divergence in DIVERGENCES:
        cell = (divergence, estimator, placement, credit, "on")
        if cell in MEANINGLESS:
            continue
        for problem in TREES:
            leaf = problem.random(1).requires_grad_()
            whole = ESTIMATORS[estimator].full_vocabulary
            ctx = problem.context(
                leaf, None, leaf.detach(), DIVERGENCES[divergence][0] if whole else None, outcomes=ESTIMATORS[estimator].outcomes
            )
            penalty = composed(cell).penalty(ctx, NAME)
            assert penalty.value.abs().max() < 1e-13
            assert expected_gradient(ctx, leaf, penalty).abs().max() < 1e-13
