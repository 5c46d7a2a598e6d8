"""The policy that preference learning ends at, through the learner's own loss: the regularised optimum of the rewards that labelled.

Five answers, every ranking of a few of them weighed by its probability, so the loss is that of the population. In float64: where the
policy is `ref (f')^{-1}((R - lambda)/beta)` its gradient is zero (Wang et al. 2309.16240, theorem 1), and nowhere near.
"""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from helpers.built import algorithm, single_turn
from helpers.optima import INVERSES, REF, REWARDS, optimum
from torch import Tensor

from align.coefficients.constant import Constant
from align.contexts import TokenContext
from align.divergences import Divergence
from align.divergences.reverse_kl import ReverseKl
from align.estimators.sampled import Sampled
from align.learner.metric_accumulator import MetricAccumulator
from align.learner.objective import total
from align.references.frozen import Frozen
from align.regularizers.composed import Composed
from align.types import TokenBatch
from align.weightings.uniform import Uniform

HOW_OFTEN = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
"""Answers to be ranked are drawn unevenly: the optimum may not depend on it."""


def rankings(k: int, flipped: float = 0.0) -> list[tuple[tuple[int, ...], float]]:
    """Every order of k answers, best first, with its probability: Plackett-Luce in the rewards, pairs `flipped` that often."""
    found = []
    for order in permutations(range(5), k):
        weights = REWARDS[list(order)].exp()
        probability = math.prod((weights[i] / weights[i:].sum()).item() for i in range(k))
        if flipped:
            probability = flipped + (1 - 2 * flipped) * probability
        low, *_, high = sorted(order)
        found.append((order, HOW_OFTEN[low][sorted(order)[1]][high] * probability))
    return found


def gradient(pi: Tensor, ref: Tensor, divergence: Divergence, beta: float, k: int = 2, flipped: float = 0.0, **keys) -> Tensor:
    """Of the expected loss, in the logits of the policy."""
    logits = pi.log().requires_grad_()
    orders = rankings(k, flipped)
    answers = torch.tensor([answer for order, _ in orders for answer in order])
    count = len(answers)
    ones = torch.ones(count, dtype=torch.int64)
    batch = TokenBatch(
        input_ids=torch.full((count, 2), 7),
        **single_turn(ones, ones),
        group_ids=torch.arange(len(orders)).repeat_interleave(k),
        betas={"kl": beta},
        ref_logp={"kl": ref.log()[answers]},
        penalty_weights={"kl": torch.ones(count, dtype=torch.float64)},
        loss_weights=torch.tensor([weight / k for _, weight in orders], dtype=torch.float64).repeat_interleave(k),
    )
    ctx = TokenContext(batch=batch, logp=torch.log_softmax(logits, -1)[answers], entropy=torch.zeros(count))
    kl = Composed(
        divergence=divergence, estimator=Sampled(), coefficient=Constant(beta), weighting=Uniform(), reference=Frozen(), placement="link"
    )
    loss = total(
        SimpleNamespace(algorithm=algorithm("dpo", **keys), regularizers={"kl": kl}), ctx, MetricAccumulator(), MetricAccumulator()
    )
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("k", [2, 3], ids=["pairs", "rankings of three"])
@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", INVERSES)
def test_row_24_f_dpo_is_stationary_at_the_regularised_optimum(name: str, beta: float, k: int):
    divergence, inverse, bound = INVERSES[name]
    pi = optimum(inverse, bound, REWARDS, beta, REF)
    assert pi.sum().item() == pytest.approx(1, abs=1e-11) and pi.min() > 0 and (pi - REF).abs().max() > 0.02
    assert gradient(pi, REF, divergence, beta, k).abs().max() < 1e-11
    elsewhere = (pi + torch.tensor([0.02, -0.02, 0, 0, 0])).clamp_min(1e-6)
    assert gradient(elsewhere / elsewhere.sum(), REF, divergence, beta, k).abs().max() > 1e-4


def tilted(times: float) -> Tensor:
    """ref e^(times R), normalised."""
    return torch.softmax(REF.log() + times * REWARDS, -1)


def test_row_74_dpo_is_stationary_at_the_tilted_reference():
    pi = tilted(2.0)
    assert gradient(pi, REF, ReverseKl(), 0.5).abs().max() < 1e-14
    torch.testing.assert_close(optimum(torch.exp, math.inf, REWARDS, 0.5, REF), pi, rtol=1e-12, atol=0)
    other_links = [d for d, _, _ in INVERSES.values() if not isinstance(d, ReverseKl)]
    assert all(gradient(pi, REF, d, 0.5).abs().max() > 1e-3 for d in other_links)


def test_rows_36_and_37_every_hard_reset_divides_beta():
    """TR-DPO solved exactly between its resets: after m of them the policy is that of beta/m; without one (alpha = 0) that of beta."""
    for resets in (1, 2, 3):
        assert gradient(tilted(resets / 1.5), tilted((resets - 1) / 1.5), ReverseKl(), 1.5).abs().max() < 1e-14
        assert gradient(tilted(resets / 1.5), REF, ReverseKl(), 1.5 / resets).abs().max() < 1e-14
    assert gradient(tilted(2 / 1.5), REF, ReverseKl(), 1.5).abs().max() > 1e-2


@pytest.mark.parametrize(("preference", "unmoved"), [("robust", True), ("cdpo", False)])
def test_row_71_flipped_labels_move_the_optimum_of_cdpo_but_not_of_robust_dpo(preference: str, unmoved: bool):
    """Labels of the same model, a fifth of them flipped. cDPO smooths what is smoothed already, and stops short."""
    found = gradient(tilted(2.0), REF, ReverseKl(), 0.5, flipped=0.2, preference={"name": preference, "label_smoothing": 0.2})
    assert (found.abs().max() < 1e-14) == unmoved
    assert gradient(tilted(2.0), REF, ReverseKl(), 0.5, flipped=0.2).abs().max() > 1e-2, "plain DPO is moved"
