"""Token weights, and Renyi's own weight of a state, against the exact objectives they make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.definitions import every
from helpers.enumeration import NAME, Problem, gradient, state_divergence
from unit.regularizer_oracles.cells import (
    DIVERGENCES,
    MEANINGLESS,
    PLACEMENTS,
    POLICIES,
    TREES,
    assert_close,
    composed,
    context,
    expected_gradient,
    setting,
)

EVERY_SETTING = every()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_token_weights_weigh_states(estimator, policy):
    """A weight that depends on the state alone weighs that state's divergence: sum_t E w_t D_t, locally and summed."""
    problem = TREES[1]
    logits, old, ref = setting(problem, policy)
    of_prefix = torch.linspace(0.2, 3.0, len(problem.prefixes), dtype=torch.float64)
    prefix = torch.tensor(problem.steps())[:, 2]
    for divergence, (_, f) in DIVERGENCES.items():
        for credit in ("local", "summed"):
            cell = (divergence, estimator, "loss", credit, policy)
            if cell in MEANINGLESS:
                continue
            ctx, leaf = context(cell, problem)
            ctx.batch.penalty_weights[NAME].copy_(of_prefix[prefix])
            penalty = composed(cell).penalty(ctx, NAME)

            def weighed(x, f=f, credit=credit):
                reach = problem.reach(x) if credit == "summed" else problem.reach(logits if old is None else old).detach()
                return (reach * of_prefix * state_divergence(f, x, ref)).sum()

            assert_close(expected_gradient(ctx, leaf, penalty), gradient(weighed, logits))
            assert_close((ctx.batch.loss_weights * penalty.value).sum(), weighed(logits))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sequence_credit_takes_the_mean_weight_of_an_answer(placement):
    problem = TREES[1]
    cell = ("jensen_shannon", "sampled", placement, "sequence", "on")
    ctx, _ = context(cell, problem)
    plain = composed(cell).penalty(ctx, NAME)
    uneven = torch.linspace(0.0, 2.0, len(ctx.batch.seq_ids), dtype=torch.float64)
    ctx.batch.penalty_weights[NAME].copy_(uneven)
    found = composed(cell).penalty(ctx, NAME)
    means = torch.stack([uneven[ctx.batch.seq_ids == s].mean() for s in range(len(problem.answers))])[ctx.batch.seq_ids]
    assert_close(found.value, means * plain.value)
    assert_close(
        found.reward if placement == "reward" else found.loss.detach(),
        means * (plain.reward if placement == "reward" else plain.loss.detach()),
    )


@pytest.mark.parametrize("q", [0.5, 2.0])
@pytest.mark.parametrize("policy", POLICIES)
def test_renyi_rescales_tsallis_state_by_state(q, policy):
    """Its gradient at a state is that of D^q over 1 + (q - 1) D^q of that state: another direction, not another beta."""
    problem = Problem(4, 2)
    logits, old, ref = setting(problem, policy)
    pulls = {}
    for name in (f"renyi_{q:g}", f"tsallis_{q:g}"):
        divergence = EVERY_SETTING[name].divergence
        leaf = logits.clone().requires_grad_()
        ctx = problem.context(leaf, old, ref, divergence)
        part = replace(composed(("reverse_kl", "exact", "loss", "local", policy)), divergence=divergence)
        pulls[name] = expected_gradient(ctx, leaf, part.penalty(ctx, NAME))
    renyi, tsallis = pulls.values()
    pi, base = torch.softmax(logits, -1), torch.softmax(ref, -1)
    overlap = (pi**q * base ** (1 - q)).sum(-1, keepdim=True)
    assert_close(renyi, tsallis / overlap)
    assert torch.cosine_similarity(renyi.flatten(), tsallis.flatten(), 0) < 0.999
