"""The keys that bound a regularizer: whom samples are weighed against, the cap of that weight, the clamp of the log-ratio.

Capped and masked weights have the gradient of exactly the truncated sum; a cap and a clamp that cut nothing change nothing, and
the share of tokens they cut is what the metric says.
"""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from helpers.enumeration import NAME, Problem
from torch import Tensor
from unit.regularizer_oracles.cells import (
    CREDITS,
    ESTIMATORS,
    OF_ANY,
    OF_KL,
    PLACEMENTS,
    POLICIES,
    UNBIASED,
    composed,
    context,
    expected_gradient,
    setting,
    told,
)

from align.core.credit import bounded

TREE = Problem(4, 3, end=1)
WEIGHED = [
    c for c in UNBIASED if c[0] in ("reverse_kl", "forward_kl", "pearson") and (c[1] == "sampled" or (c[1] in OF_ANY and c[3] == "summed"))
]


def by_answer(problem: Problem, of_token: Tensor, credit: str, whole: bool) -> Tensor:
    """[T] log-ratios -> what is weighed, by loops: the token, what leads to it (`whole`: and itself), or its answer."""
    steps, found = problem.steps(), []
    for i, (answer, position, _, _) in enumerate(steps):
        mine = [
            of_token[j]
            for j, step in enumerate(steps)
            if step[0] == answer and (credit == "sequence" or (j == i if credit == "local" else step[1] < position + whole))
        ]
        found.append(sum(mine, torch.zeros((), dtype=of_token.dtype)))
    return torch.stack(found)


@pytest.mark.parametrize("beyond", ["truncate", "mask"])
@pytest.mark.parametrize("ratio_to", ["old", "sampler"])
@pytest.mark.parametrize("cell", WEIGHED, ids="-".join)
def test_a_cap_cuts_the_weight_and_nothing_else(cell, ratio_to, beyond):
    """The gradient of a capped penalty is that of the uncapped one with the policy's own samples, weighed by the cut ratio."""
    logits, old, _ = setting(TREE, cell[4])
    mu = logits + 0.4 * TREE.random(7)
    ctx, leaf = context(cell, TREE, mu)
    whom = mu if ratio_to == "sampler" else logits if old is None else old
    log_ratio = TREE.token_logp(logits) - TREE.token_logp(whom)
    rho = by_answer(TREE, log_ratio, cell[3], whole=not ESTIMATORS[cell[1]].full_vocabulary).exp()
    cap = 1.1
    kept = torch.where(rho > cap, cap if beyond == "truncate" else 0.0, rho)
    penalty = composed(cell, ratio_to=ratio_to, ratio_cap=cap, beyond_cap=beyond).penalty(ctx, NAME)

    # On-policy nothing weighs: the bare terms, each weighed by hand. A future value is weighed by its own token's ratio.
    bare_ctx, bare_leaf = context((*cell[:4], "on"), TREE)
    bare_ctx = replace(bare_ctx, batch=replace(bare_ctx.batch, loss_weights=ctx.batch.loss_weights))
    bare = composed((*cell[:2], "loss", "local" if cell[3] == "summed" else cell[3], "on")).penalty(bare_ctx, NAME)
    value = kept * bare.value
    hand = kept * bare.loss
    if cell[3] == "summed":
        steps = TREE.steps()
        future = torch.stack(
            [
                sum(
                    (value[j] for j, step in enumerate(steps) if step[0] == answer and step[1] > position),
                    torch.zeros((), dtype=value.dtype),
                )
                for answer, position, _, _ in steps
            ]
        )
        hand = hand + future * (bare_ctx.logp - bare_ctx.logp.detach())
    expected = torch.autograd.grad((ctx.batch.loss_weights * hand).sum(), bare_leaf)[0]
    torch.testing.assert_close(expected_gradient(ctx, leaf, penalty), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(penalty.value, value, rtol=1e-12, atol=1e-13)
    assert torch.equal(penalty.shares["capped"], rho > cap)
    assert (rho > cap).any() == (ratio_to == "sampler" or cell[4] == "off")


@pytest.mark.parametrize("cell", WEIGHED, ids="-".join)
def test_what_cuts_nothing_changes_nothing(cell):
    ctx, _ = context(cell, TREE)
    plain, bounded = (
        composed(cell, **keys).penalty(ctx, NAME)
        for keys in ({}, {"ratio_cap": 1e30} | ({} if ESTIMATORS[cell[1]].full_vocabulary else {"clamp": 1e3}))
    )
    assert torch.equal(plain.value, bounded.value)
    assert torch.equal(*(p.loss.detach() if p.reward is None else p.reward for p in (plain, bounded)))
    assert not any(hit.any() for hit in bounded.shares.values())
    assert "capped" in bounded.shares and "capped" not in plain.shares


def test_a_weight_beyond_float32_is_cut_before_it_overflows():
    """e^100 is inf in float32, and inf times a value of 0 would be NaN."""
    log_weight = torch.tensor([-math.inf, -2.0, 0.0, 1.0, 2.0, 100.0, math.inf])
    for masks, far in ((False, 3.0), (True, 0.0)):
        rho, beyond = bounded(log_weight, 3.0, masks)
        torch.testing.assert_close(rho, torch.tensor([0.0, math.exp(-2), 1.0, math.e, far, far, far]), rtol=1e-6, atol=0)
        assert beyond.tolist() == [False] * 4 + [True] * 3
    assert bounded(log_weight[:4], math.inf, False).rho.tolist() == log_weight[:4].exp().tolist()


# The clamp


def far_context(distances: list[float], credit: str):
    """One answer of so many tokens (or as many answers of one), log pi/ref as given."""
    problem = Problem(3, len(distances) if credit == "sequence" else 1)
    ctx = problem.context(problem.random(1), None, problem.random(2))
    chosen = torch.tensor([0]) if credit == "sequence" else torch.arange(len(distances))
    batch = ctx.batch.select(chosen)
    logp = ctx.logp[: len(batch.seq_ids)].detach().clone().requires_grad_()
    reference = logp.detach() - torch.tensor(distances, dtype=torch.float64)
    return replace(ctx, batch=replace(batch, ref_logp={NAME: reference}), logp=logp, entropy=ctx.entropy[: len(logp)])


COEFFICIENTS = {"reverse_kl": lambda x: x, "forward_kl": lambda x: 1 - math.exp(-x), "pearson": lambda x: 2 * (math.exp(x) - 1)}
VALUES = {
    "reverse_kl": lambda x: math.exp(-x) - 1 + x,
    "forward_kl": lambda x: -x * math.exp(-x) + 1 - math.exp(-x),
    "pearson": lambda x: math.exp(-x) * (math.exp(x) - 1) ** 2,
}


@pytest.mark.parametrize("credit", ["local", "summed"])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("divergence", COEFFICIENTS)
def test_beyond_the_clamp_a_token_still_pulls_as_hard_as_at_it(divergence, placement, credit):
    """verl's and SkyRL's k3 clamps its output, so there the gradient is 0 where the policy is furthest away."""
    cell = (divergence, "sampled", placement, credit, "on")
    for keys, bound in (({}, 20.0), ({"clamp": 2.0}, 2.0)):
        ctx = far_context([-25.0, 0.5, 25.0], credit)
        penalty = composed(cell, **keys).penalty(ctx, NAME)
        pull = penalty.reward if placement == "reward" else torch.autograd.grad(penalty.loss.sum(), ctx.logp)[0]
        for found, of in ((pull, COEFFICIENTS), (penalty.value, VALUES)):
            expected = torch.tensor([of[divergence](x) for x in (-bound, 0.5, bound)], dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert penalty.shares["clamped"].tolist() == [True, False, True]


@pytest.mark.parametrize(("keys", "bound"), [({}, 40.0), ({"clamp": 30.0}, 30.0)])
def test_under_sequence_credit_the_clamp_is_the_answers(keys, bound):
    """Tokens of 25 nats each are no outliers there; an answer beyond 80 is, all its tokens with it."""
    cell = ("reverse_kl", "sampled", "loss", "sequence", "on")
    for distances, total in (([25.0, 2.0], 27.0), ([45.0, 45.0], bound)):
        ctx = far_context(distances, "sequence")
        penalty = composed(cell, **keys).penalty(ctx, NAME)
        pull = torch.autograd.grad(penalty.loss.sum(), ctx.logp)[0]
        torch.testing.assert_close(pull, torch.full((2,), total, dtype=torch.float64), rtol=1e-12, atol=0)
        assert penalty.shares["clamped"].tolist() == [total == bound] * 2


# What the recipe is told


KEYS = {
    "sampler": {"ratio_to": "sampler"},
    "cap": {"ratio_cap": 2.0},
    "mask": {"ratio_cap": 2.0, "beyond_cap": "mask"},
    "sampler_cap": {"ratio_to": "sampler", "ratio_cap": 2.0},
    "clamp": {"clamp": 5.0},
}
IDLE = {
    *product(OF_KL, PLACEMENTS, CREDITS, POLICIES, ("sampler", "cap", "mask", "sampler_cap")),
    *product(("exact", "top_2"), ("loss",), ("local",), POLICIES, ("sampler", "cap", "mask", "sampler_cap")),
    *product(("exact", "top_2"), ("loss",), CREDITS, POLICIES, ("clamp",)),
    *product(OF_ANY, PLACEMENTS, CREDITS, ("on",), ("cap", "mask")),
}
"""Estimator, placement, credit, policy, keys: refused, for the key would change nothing."""


@pytest.mark.parametrize("keys", KEYS)
def test_a_key_that_changes_nothing_is_refused(keys):
    """Over the whole product with reverse KL: 120 forms, of which 72 run, 40 of those with allow_biased."""
    running = 0
    for form in product(ESTIMATORS, PLACEMENTS, CREDITS, POLICIES):
        cell, on_policy = ("reverse_kl", *form), form[3] == "on"
        biased = "allow_biased" in (told(composed(cell), on_policy=on_policy, samples=True) or "")
        if told(composed(cell, allow_biased=biased), on_policy=on_policy, samples=True):
            continue
        running += 1
        refusal = told(composed(cell, allow_biased=biased, **KEYS[keys]), on_policy=on_policy, samples=True)
        if (*form, keys) in IDLE:
            assert refusal.startswith(f"{next(iter(KEYS[keys]))} changes nothing: "), (form, refusal)
        else:
            assert refusal is None, (form, refusal)
    assert running == 72


@pytest.mark.parametrize("keys", [{"ratio_to": "sampler"}, {"ratio_cap": 2.0}])
def test_demonstrations_have_no_sampler(keys):
    cell = ("reverse_kl", "exact", "loss", "local", "on")
    assert told(composed(cell), on_policy=True, samples=False) is None
    assert "no sampler log-probs" in told(composed(cell, **keys), on_policy=True, samples=False)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"ratio_to": "engine"}, "ratio_to must be one of old, sampler"),
        ({"ratio_cap": 1.0}, "above 1"),
        ({"ratio_cap": math.inf}, "finite"),
        ({"ratio_cap": math.nan}, "above 1"),
        ({"beyond_cap": "mask"}, "changes nothing without ratio_cap"),
        ({"ratio_cap": 2.0, "beyond_cap": "drop"}, "truncate, mask"),
        ({"clamp": 0.0}, "positive"),
        ({"clamp": math.inf}, "finite"),
    ],
)
def test_keys_without_meaning_are_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        composed(("reverse_kl", "sampled", "loss", "local", "on"), **keys)
