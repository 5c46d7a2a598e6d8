"""Log-variance, CoPG and trajectory balance against exact sums over every group of answers, through the learner's objective, float64.

Two answers are drawn from any sampling distribution q. Value and gradient are those of the definitions; on-policy the gradient is the
policy gradient of `E[R] - beta KL`; at the regularised optimum both are 0 for every q and every f.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from helpers.built import algorithm, single_turn
from helpers.enumeration import Problem
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

TREE = Problem(3, 2, end=0)
"""Answers of one and two tokens."""
POLICY, OLD, REFERENCE = (TREE.random(seed) for seed in (1, 2, 3))
OF_TREE = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0, 0.7, -1.2], dtype=torch.float64)
FIVE = Problem(5)
BETA = 0.375
"""A float32 holds it."""
TIMES = {"log_variance": 1.0, "copg": 4.0, "trajectory_balance": 0.5}
"""Of log-variance, for two answers."""


def expected(
    name: str, problem: Problem, logits: Tensor, drawn_from: Tensor, ref: Tensor, rewards: Tensor, f: Divergence, k: int
) -> Tensor:
    """The expected loss of k answers drawn from `drawn_from`, logits [P, V]."""
    q = problem.answer_logp(drawn_from).exp()
    groups = list(product(range(len(q)), repeat=k))
    drawn = torch.tensor(groups).flatten()
    spans = [[t for t, step in enumerate(problem.steps()) if step[0] == s] for s in range(len(q))]
    tokens = torch.tensor([t for s in drawn.tolist() for t in spans[s]])
    weights = torch.stack([q[list(group)].prod() / k for group in groups]).repeat_interleave(k)
    place = single_turn(torch.ones(len(drawn), dtype=torch.int64), torch.tensor([len(spans[s]) for s in drawn.tolist()]))
    batch = TokenBatch(
        input_ids=torch.full((len(drawn), 2 + problem.depth), 7),
        **place,
        group_ids=torch.arange(len(groups)).repeat_interleave(k),
        rewards=rewards[drawn],
        betas={"kl": BETA},
        ref_logp={"kl": problem.token_logp(ref)[tokens]},
        penalty_weights={"kl": torch.ones(len(tokens), dtype=torch.float64)},
        loss_weights=weights[place["seq_ids"]],
        advantages=rewards[drawn][place["seq_ids"]],
    )
    ctx = TokenContext(batch=batch, logp=problem.token_logp(logits)[tokens], entropy=torch.zeros(len(tokens)))
    kl = Composed(divergence=f, estimator=Sampled(), coefficient=Constant(BETA), weighting=Uniform(), reference=Frozen(), placement="link")
    recipe = SimpleNamespace(algorithm=algorithm(name), regularizers={"kl": kl})
    return total(recipe, ctx, MetricAccumulator(), MetricAccumulator())


def spread(logits: Tensor, q: Tensor) -> Tensor:
    """Half the variance of `beta log pi/ref - R` over q."""
    h = BETA * (TREE.answer_logp(logits) - TREE.answer_logp(REFERENCE)) - OF_TREE
    return 0.5 * ((q * h * h).sum() - (q * h).sum() ** 2)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("drawn_from", [POLICY, OLD], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("name", TIMES)
def test_value_and_gradient_are_those_of_the_variance(name: str, drawn_from: Tensor):
    leaf = POLICY.clone().requires_grad_()
    found = expected(name, TREE, leaf, drawn_from, REFERENCE, OF_TREE, ReverseKl(), k=2)
    wanted = TIMES[name] * spread(leaf, TREE.answer_logp(drawn_from).exp())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient(found, leaf), gradient(wanted, leaf), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "times"), [("log_variance", 1.0), ("copg", 6.0), ("trajectory_balance", 2 / 3)])
def test_of_three_answers(name: str, times: float):
    found = expected(name, TREE, POLICY, OLD, REFERENCE, OF_TREE, ReverseKl(), k=3)
    torch.testing.assert_close(found, times * spread(POLICY, TREE.answer_logp(OLD).exp()), rtol=1e-12, atol=0)


def test_on_policy_it_is_the_policy_gradient_of_the_regularised_reward():
    leaf = POLICY.clone().requires_grad_()
    found = gradient(expected("log_variance", TREE, leaf, POLICY, REFERENCE, OF_TREE, ReverseKl(), k=2), leaf)
    logp = TREE.answer_logp(leaf)
    objective = (logp.exp() * (OF_TREE - BETA * (logp - TREE.answer_logp(REFERENCE)))).sum()
    torch.testing.assert_close(found, -BETA * gradient(objective, leaf), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("link", INVERSES)
def test_loss_and_gradient_are_zero_at_the_optimum_whoever_drew_the_answers(name: str, link: str):
    f, inverse, bound = INVERSES[link]
    pi = optimum(inverse, bound, REWARDS, BETA, REF)
    leaf = pi.log()[None].requires_grad_()
    for q in (FIVE.random(4), pi.log()[None]):
        value = expected(name, FIVE, leaf, q, REF.log()[None], REWARDS, f, k=2)
        assert value < 1e-20 and gradient(value, leaf).abs().max() < 1e-11
    elsewhere = FIVE.random(5).requires_grad_()
    assert gradient(expected(name, FIVE, elsewhere, FIVE.random(4), REF.log()[None], REWARDS, f, k=2), elsewhere).abs().max() > 1e-3
