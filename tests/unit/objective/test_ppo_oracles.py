"""PPO against exact gradients and exact values, in float64: every answer of a three-token tree once, weighed by its probability.

The whole path is the loop's own: `prepare_batch` charges the token rewards, `Ppo` estimates advantages and targets, the learner's
objective adds it up. What it must equal is written from definitions: E[R] by summing over answers, the divergence as `E_ref[f(u)]`,
values backwards from the ends of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.definitions import DEFINITIONS, KEYS
from helpers.enumeration import NAME, Problem, gradient, local_objective, sequence_objective, state_divergence, summed_objective
from torch import Tensor

from align.coefficients import Coefficient
from align.config import recipes
from align.config.schema import Recipe
from align.contexts import TokenContext
from align.experience.prepare import prepare_batch
from align.learner import objective
from align.learner.metric_accumulator import MetricAccumulator
from align.types import TokenBatch

TREE = Problem(4, 3, end=1)
BETA = 0.375
"""A float32 holds it, as it holds every coefficient here: the package makes betas in float32."""
POLICY, REFERENCE = TREE.random(1), TREE.random(2)
REWARDS = torch.randn(len(TREE.answers), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
CRITIC = 3 * torch.randn(len(TREE.prefixes), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
"""What no critic ever learned: any function of the prefix."""
DIVERGENCES = sorted(set(DEFINITIONS) - {"renyi"})
"""Every file of the room; a sample does not tell Renyi's, a function of an expectation."""
CREDITS = ("local", "summed", "sequence")
TOLERANCE = 1e-10


def f_of(divergence: str) -> Callable[[Tensor], Tensor]:
    return lambda u: DEFINITIONS[divergence](u, torch.log, **keys(divergence))


def keys(divergence: str) -> dict:
    return KEYS.get(divergence, ({},))[0]


def made(divergence: str = "reverse_kl", algorithm: dict | None = None, **regularizer) -> Recipe:
    """On-policy PPO without whitening and with gamma = lam = 1, unless said."""
    on_policy, given = {"name": "ppo", "epochs": 1}, dict(algorithm or {})
    advantage = {"advantage": {"gamma": 1.0, "lam": 1.0, "whiten": False} | given.pop("advantage", {})}
    term = {"divergence": {"name": divergence} | keys(divergence), "placement": "reward", "credit": "summed", "coefficient": BETA}
    return recipes.build(
        {
            "steps": 1,
            "task": "countdown",
            "reward": "countdown_exact",
            "model": {"path": "nowhere"},
            "batch": {"prompts": 1},
            "algorithm": on_policy | given | advantage,
            "regularizers": {NAME: term | regularizer},
        }
    )


def drawn(values: Tensor, beta: float = BETA) -> TokenBatch:
    """Every answer by pi_old = `POLICY`, with its reward and what the critic says of its prefixes, [P]."""
    batch = TREE.context(POLICY, POLICY, REFERENCE).batch
    return replace(
        batch,
        penalty_weights={},
        betas={NAME: beta},
        rewards=REWARDS,
        values=at_tokens(values),
        sampler_logp=None,
        prompt_ids=("",) * len(REWARDS),
    )


def at_tokens(of_prefixes: Tensor) -> Tensor:
    return of_prefixes[torch.tensor(TREE.steps())[:, 2]]


def twice(batch: TokenBatch, first: str, second: str) -> TokenBatch:
    """Two prompts with the same answers, half of the weight each."""
    count, fields = len(batch.lengths), ("input_ids", "totals", "lengths", "positions", "columns", "rewards", "old_logp", "values")
    both = {name: torch.cat([getattr(batch, name)] * 2) for name in fields}
    reference = batch.ref_logp[NAME]
    return replace(
        batch,
        **both,
        seq_ids=torch.cat([batch.seq_ids, batch.seq_ids + count]),
        group_ids=torch.arange(2 * count) // count,
        prompt_ids=(first,) * count + (second,) * count,
        loss_weights=torch.cat([batch.loss_weights] * 2) / 2,
        ref_logp={NAME: torch.cat([reference] * 2)},
    )


def found(of: Recipe, batch: TokenBatch, logits: Tensor = POLICY) -> tuple[Tensor, Tensor]:
    """The gradients of the learner's loss: in the policy's logits [P, V], and in the critic's values [P]."""
    shaped, leaf = prepare_batch(of, batch), logits.clone().requires_grad_()
    values = (
        torch.zeros(len(TREE.prefixes), dtype=torch.float64)
        .index_copy(0, torch.tensor(TREE.steps())[:, 2], batch.values[: len(TREE.steps())])
        .requires_grad_()
    )
    copies = len(batch.lengths) // len(TREE.answers)
    logp = TREE.token_logp(leaf).repeat(copies)
    ctx = TokenContext(batch=shaped, logp=logp, entropy=torch.zeros_like(logp), values=at_tokens(values).repeat(copies))
    of_policy, of_values = torch.autograd.grad(objective.total(of, ctx, MetricAccumulator(), MetricAccumulator()), (leaf, values))
    return of_policy, of_values


def mean_reward(logits: Tensor) -> Tensor:
    return (TREE.answer_logp(logits).exp() * REWARDS).sum()


def divergence_of(name: str, credit: str) -> Callable[[Tensor], Tensor]:
    f = f_of(name)
    return {
        "local": lambda x: local_objective(f, TREE, x, POLICY, REFERENCE),
        "summed": lambda x: summed_objective(f, TREE, x, REFERENCE),
        "sequence": lambda x: sequence_objective(f, TREE, x, REFERENCE),
    }[credit]


def descent(name: str, credit: str, beta: float = BETA) -> Tensor:
    """The gradient of -(E[R] - beta D), by autograd from the definitions."""
    divergence = divergence_of(name, credit)
    assert gradient(divergence, POLICY).abs().max() > 0.01
    return -gradient(lambda x: mean_reward(x) - beta * divergence(x), POLICY)


def assert_close(actual: Tensor, expected: Tensor):
    assert (actual - expected).abs().max() < TOLERANCE, (actual, expected)


def returns_from(reward_of_token: Tensor, end: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Values of the prefixes [P], from the longest to the empty one. `end(p, x)`: what a state makes of outcomes x drawn with p [V]."""
    rows = {prefix: i for i, prefix in enumerate(TREE.prefixes)}
    outcomes = torch.zeros(len(rows), TREE.vocabulary, dtype=torch.float64)
    values: dict[tuple[int, ...], Tensor] = {}
    for prefix in reversed(TREE.prefixes):
        i = rows[prefix]
        for token in range(TREE.vocabulary):
            after = (*prefix, token)
            outcomes[i, token] = reward_of_token[i, token] + (values[after] if after in rows else REWARDS[TREE.answers.index(after)])
        values[prefix] = end(torch.softmax(POLICY, -1)[i], outcomes[i])
    return torch.stack([values[prefix] for prefix in TREE.prefixes])


def charged(name: str) -> Tensor:
    """-beta khat of every token at every prefix, [P, V]: what a penalised reward pays, by khat u = f(u) - f'(1)(u - 1)."""
    u = (torch.log_softmax(POLICY, -1) - torch.log_softmax(REFERENCE, -1)).exp()
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f_of(name)(one), one)
    return -BETA * (f_of(name)(u) - slope * (u - 1)) / u


def value_function(name: str) -> Tensor:
    """E of reward minus beta times the divergences still to come, [P]."""
    # Of an expectation the value estimate and the divergence of the state itself are the same.
    found = returns_from(charged(name), lambda p, x: (p * x).sum())
    of_states = returns_from(-BETA * state_divergence(f_of(name), POLICY, REFERENCE)[:, None].expand_as(POLICY), lambda p, x: (p * x).sum())
    assert_close(found, of_states)
    return found


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_gradient_is_that_of_the_penalised_reward_whatever_the_critic_says(divergence: str, credit: str):
    for values in (CRITIC, torch.zeros_like(CRITIC)):
        assert_close(found(made(divergence, credit=credit), drawn(values))[0], descent(divergence, credit))


@pytest.mark.parametrize("credit", CREDITS)
def test_so_it_is_with_the_penalty_in_the_loss(credit: str):
    of = made("jensen_shannon", credit=credit, placement="loss")
    assert_close(found(of, drawn(CRITIC))[0], descent("jensen_shannon", credit))


def test_the_three_credits_are_three_objectives():
    gradients = [descent("forward_kl", credit) for credit in CREDITS]
    assert min((a - b).abs().max() for i, a in enumerate(gradients) for b in gradients[:i]) > 0.01


def test_k1_and_sampled_agree_in_the_mean_and_not_in_a_sample():
    by_k1, sampled = made(estimator="k1"), made()
    assert_close(found(by_k1, drawn(CRITIC))[0], found(sampled, drawn(CRITIC))[0])
    one, other = (prepare_batch(of, drawn(CRITIC)) for of in (by_k1, sampled))
    assert (one.advantages - other.advantages).abs().max() > 0.1
    assert not one.reward_penalties[NAME].direct.any(), "by k1 the derivative of a token is its value: all of it is reward"


def test_so_they_do_at_a_stale_update():
    """With a critic both are taken at pi_old: what the ratio of a later token would have to weigh is not looked at by either."""
    wide = {"epochs": 2, "surrogate": {"clip_low": 0.999, "clip_high": 1e6}}
    stale = POLICY + 0.5 * TREE.random(3)
    gradients = [found(made(algorithm=wide, estimator=estimator), drawn(CRITIC), stale)[0] for estimator in ("k1", "sampled")]
    assert_close(*gradients)
    assert (gradients[0] - found(made(algorithm=wide, coefficient=0.0), drawn(CRITIC, beta=0.0), stale)[0]).abs().max() > 0.01


def test_k3_in_the_reward_is_biased_by_the_forward_kl():
    """Methods row 7: its own token has the gradient of KL(pi||ref) - KL(ref||pi); what follows is exact."""
    of = made(estimator="k3", allow_biased=True)
    bias = gradient(divergence_of("forward_kl", "local"), POLICY)
    assert bias.abs().max() > 0.05
    assert_close(found(of, drawn(CRITIC))[0], descent("reverse_kl", "summed") - BETA * bias)


def test_without_beta_it_is_the_reward_alone():
    of = made(coefficient=0.0)
    assert_close(found(of, drawn(CRITIC, beta=0.0))[0], -gradient(mean_reward, POLICY))


class ByPrompt(Coefficient):
    """A factor of beta for each prompt."""

    def beta(self, step, state):
        return BETA

    def multipliers(self, batch, name, state):
        return torch.tensor([{"a": 0.5, "b": 2.0}[prompt] for prompt in batch.prompt_ids])


@pytest.mark.parametrize("credit", CREDITS)
def test_every_prompt_has_its_own_multiplier(credit: str):
    of = made("hellinger", credit=credit)
    own = replace(of, regularizers={NAME: replace(of.regularizers[NAME], coefficient=ByPrompt())})
    batch = twice(drawn(CRITIC), "b", "a")
    assert_close(found(of, batch)[0], descent("hellinger", credit))
    assert_close(found(own, batch)[0], (descent("hellinger", credit, 2 * BETA) + descent("hellinger", credit, BETA / 2)) / 2)
    ones, halves = prepare_batch(of, batch).reward_penalties[NAME], prepare_batch(own, batch).reward_penalties[NAME]
    count = len(TREE.steps())
    for a, b in ((ones.discounted, halves.discounted), (ones.direct, halves.direct)):
        assert torch.equal(b, torch.cat([2 * a[:count], a[count:] / 2]))


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon", "neyman"])
def test_a_shorter_trace_is_unbiased_with_the_true_values_and_only_with_them(divergence: str, lam: float):
    of, exact = made(divergence, {"advantage": {"lam": lam}}), value_function(divergence)
    assert_close(found(of, drawn(exact))[0], descent(divergence, "summed"))
    assert (found(of, drawn(CRITIC))[0] - descent(divergence, "summed")).abs().max() > 0.01


def test_under_local_and_sequence_credit_the_critic_values_the_reward_alone():
    plain = returns_from(torch.zeros_like(POLICY), lambda p, x: (p * x).sum())
    for credit in ("local", "sequence"):
        assert_close(found(made("hellinger", {"advantage": {"lam": 0.5}}, credit=credit), drawn(plain))[0], descent("hellinger", credit))


def test_whitening_rescales_reward_and_penalty_alike():
    of = made("jensen_shannon", {"advantage": {"whiten": True}})
    scale = prepare_batch(made("jensen_shannon"), drawn(CRITIC)).advantages.std()
    assert abs(scale - 1) > 0.1
    torch.testing.assert_close(found(of, drawn(CRITIC))[0], descent("jensen_shannon", "summed") / scale, rtol=1e-7, atol=1e-12)


def fitted(of: Recipe, values: Tensor) -> Tensor:
    """The critic that minimises the squared loss to the targets, from these: one Newton step of a quadratic, [P]."""
    curvature = of.algorithm.value_coefficient * TREE.reach(POLICY)
    return values - found(of, drawn(values))[1] / curvature


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon", "neyman", "total_variation"])
def test_the_critic_that_fits_its_targets_values_the_penalised_return(divergence: str):
    of, exact = made(divergence, {"value_clip": None}), value_function(divergence)
    assert (exact - returns_from(torch.zeros_like(POLICY), lambda p, x: (p * x).sum())).abs().max() > 0.01
    assert_close(fitted(of, CRITIC), exact)
    for lam in (0.0, 0.6):
        shorter = made(divergence, {"value_clip": None, "advantage": {"lam": lam}})
        assert_close(fitted(shorter, exact), exact)
        assert (fitted(shorter, CRITIC) - exact).abs().max() > 0.1
        values = CRITIC
        for _ in range(TREE.depth):
            values = fitted(shorter, values)
        assert_close(values, exact)


def test_a_discount_reaches_the_values_by_the_token():
    of, gamma = made("hellinger", {"value_clip": None, "advantage": {"gamma": 0.5}}), 0.5
    rows = {prefix: i for i, prefix in enumerate(TREE.prefixes)}
    paid, values = charged("hellinger"), torch.zeros(len(rows), dtype=torch.float64)
    for prefix in reversed(TREE.prefixes):
        i = rows[prefix]
        following = [
            gamma * values[rows[*prefix, t]] if (*prefix, t) in rows else REWARDS[TREE.answers.index((*prefix, t))]
            for t in range(TREE.vocabulary)
        ]
        values[i] = (torch.softmax(POLICY, -1)[i] * (paid[i] + torch.stack(following))).sum()
    assert_close(fitted(of, CRITIC), values)


def test_the_value_clip_holds_what_has_moved_too_far_towards_its_target():
    of, batch = made(algorithm={"value_clip": 0.5}), drawn(CRITIC)
    assert_close(found(of, batch)[1], found(made(algorithm={"value_clip": None}), batch)[1])
    shaped = prepare_batch(of, batch)
    shaped = replace(shaped, returns=shaped.returns + 2 * (shaped.returns - shaped.values).sign())  # all far from their target
    towards = (shaped.returns - shaped.values).sign()
    for step, held in ((0.75, True), (0.25, False), (-0.75, False)):
        moved = replace(shaped, values=shaped.values - step * towards)
        ctx = TokenContext(batch=moved, logp=batch.old_logp, entropy=batch.old_logp, values=shaped.values.clone().requires_grad_())
        loss, stats = of.algorithm.loss(ctx, moved.advantages)
        slope = torch.autograd.grad(loss.sum(), ctx.values)[0]
        assert (stats["critic/clipped"] == held).all()
        assert_close(slope, 0 * slope if held else of.algorithm.value_coefficient * (shaped.values - shaped.returns))


@pytest.mark.parametrize("lam", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [0.5, -0.75])
def test_a_risk_averse_critic_fits_the_certainty_equivalent(alpha: float, lam: float):
    """-(1/alpha) log E e^(-alpha X) of the penalised return X. It is the same seen a token at a time: under lam = 0 it stays put too."""
    of = made("jensen_shannon", {"risk": alpha, "advantage": {"lam": lam}})
    equivalent = returns_from(charged("jensen_shannon"), lambda p, x: -(p * (-alpha * x).exp()).sum().log() / alpha)
    mean = value_function("jensen_shannon")
    assert ((equivalent - mean) * alpha < 0).all() and (equivalent - mean).abs().max() > 0.05
    assert_close(found(of, drawn(equivalent))[1], torch.zeros_like(mean))
    assert found(of, drawn(mean))[1].abs().max() > 1e-3
