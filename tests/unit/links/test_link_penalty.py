"""The regularizer as the link of a preference loss: `Composed.penalty`, which forms may be one, and what its scores are.

What the loss should have its minimum at is computed from f as its paper writes it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from helpers.definitions import Known, every
from helpers.enumeration import NAME
from torch.nn.functional import logsigmoid
from unit.links.rankings import BETA, TREE, built, rankings, ratio, slope, total
from unit.regularizer_oracles.cells import CREDITS, DIVERGENCES, ESTIMATORS, NO_EXPECTATION, OF_KL, asked, composed

from align.config import registry
from align.errors import RecipeError

EVERY = every()
UNBOUND = {
    "pearson",
    "cressie_read_0.666667",
    "cressie_read_3",
    "skew_kl_0.1",
    "skew_kl_0.5",
    "skew_kl_0.9",
    "tsallis_1.5",
    "tsallis_1.001",
    "tsallis_2",
}
"""f'(0) is finite, so an answer may lose all its probability: an f-divergence that penalises more than -log u at 0 has no such optimum."""
REFUSED = {
    "total_variation": "constant f' on either side of 1",
    "k2_functional": "f' does not increase everywhere",
    "renyi_0.5": "function of an expectation",
    "renyi_2": "function of an expectation",
    "renyi_1": "function of an expectation",
}
LINKED = {name: known for name, known in EVERY.items() if name not in REFUSED}


def node(known: Known) -> dict:
    word = next(n for n in registry.shipped("divergence") if registry.resolve("divergence", n, n) is type(known.divergence))
    return {"name": word, **known.keys}


# Where the population's loss has its minimum


@pytest.mark.parametrize("name", LINKED)
def test_the_population_loss_is_stationary_at_the_regularized_optimum(name: str):
    """methods.md rows 24 and 74, for beta 1/2: Bradley-Terry labels from R leave no gradient at ref (f')^{-1}((R - lambda)/beta)."""
    solved, ref = TREE.random(1), TREE.random(0)
    log_u = TREE.answer_logp(solved) - TREE.answer_logp(ref)
    rewards = BETA * slope(LINKED[name], log_u) + 0.3  # so that the policy is that optimum, for lambda 0.3
    orders = list(permutations(range(len(TREE.answers)), 2))
    better = torch.stack([torch.sigmoid(rewards[i] - rewards[j]) for i, j in orders])
    sizes = {}
    for label, logits, labels in (("there", solved, better), ("at random", solved, torch.full_like(better, 0.5)), ("at ref", ref, better)):
        leaf = logits.clone().requires_grad_()
        loss, _ = total(built(divergence=node(LINKED[name])), rankings(TREE, orders, leaf, ref, labels))
        sizes[label] = torch.autograd.grad(loss, leaf)[0].abs().max().item()
    assert log_u.abs().max() < 40 and sizes["there"] < 1e-10 * min(sizes["at random"], sizes["at ref"]), sizes


def test_what_may_be_a_link_and_what_is_warned_of(capsys):
    """f' must increase, and to keep every answer it must fall without bound."""
    found = Counter()
    for name, known in EVERY.items():
        if name in REFUSED:
            with pytest.raises(RecipeError) as refused:
                built(divergence=node(known))
            assert refused.value.where == f"regularizers.{NAME}" and REFUSED[name] in str(refused.value), name
            found["refused"] += 1
            continue
        warning = built(divergence=node(known)).regularizers[NAME].warning
        if name in UNBOUND:
            assert "as a link: f'(0) is finite, so the optimum may give up answers altogether" in warning, name
        else:
            assert warning is None, name
        # By f itself: halving u again and again, f' falls by ever less, or not.
        far = slope(known, torch.tensor([-400.0, -200.0, -100.0], dtype=torch.float64) * math.log(2))
        assert ((far[1] - far[0]) <= 0.999 * 2 * (far[2] - far[1])).item() == (name in UNBOUND), (name, far)
        found["warned" if name in UNBOUND else "kept"] += 1
    assert found == {"refused": len(REFUSED), "warned": len(UNBOUND), "kept": len(EVERY) - len(REFUSED) - len(UNBOUND)}
    assert replace(built(divergence="pearson").regularizers[NAME], placement="loss").warning is None
    with capsys.disabled():
        print(f"\nlinks: {found['kept']} divergences keep full support, {found['warned']} are warned of, {found['refused']} refused")


def test_the_product_of_link_divergence_estimator_and_credit(capsys):
    """Placement link over the whole product: what is legal is credit local with `sampled`, which measures, or `exact`, which does."""
    found = Counter()
    for divergence, estimator, credit in product(DIVERGENCES, ESTIMATORS, CREDITS):
        form = composed((divergence, estimator, "link", credit, "on"))
        answers = {asked(form, on_policy=on_policy) for on_policy in (True, False)}
        assert len(answers) == 1, "how many updates a batch serves does not matter"
        (refusal,) = answers
        legal = (
            divergence not in NO_EXPECTATION | {"total_variation", "k2_functional"}
            and estimator in ("sampled", "exact")
            and (credit == "local")
        )
        assert (refusal is None) == legal, (divergence, estimator, credit)
        if refusal is None:
            found["legal"] += 1
            continue
        assert not refusal.biased and len(refusal.text) > 40
        found[
            "divergence"
            if "f'" in refusal.text and "changes nothing" not in refusal.text
            else "credit"
            if refusal.text.startswith("credit")
            else "estimator"
        ] += 1
    count = len(DIVERGENCES)
    assert found == {"legal": 2 * (count - 4), "divergence": 4 * 30, "credit": (count - 4) * 20, "estimator": (count - 4) * 8}
    assert set(ESTIMATORS) == {"sampled", "exact", "top_2", *OF_KL}
    with capsys.disabled():
        print(
            f"\nlink product: {found['legal']} cells legal, {found['divergence']} refused for the divergence, {found['credit']} for the "
            f"credit, {found['estimator']} for the estimator, of {found.total()}"
        )


@pytest.mark.parametrize(
    "keys",
    [
        {"credit": "summed"},
        {"credit": "sequence"},
        {"estimator": "k1"},
        {"estimator": {"name": "top_k", "k": 2}},
        {"ratio_to": "sampler"},
        {"ratio_cap": 2.0},
        {"allow_biased": True},
    ],
    ids=str,
)
def test_a_key_that_a_link_does_not_read_is_refused(keys: dict):
    with pytest.raises(RecipeError, match="changes nothing"):
        built(**keys)


# The scores


PLUGIN = '''
class SquaredHellinger:
    """f alone."""

    def f(self, log_u):
        return (log_u / 2).expm1() ** 2


class Linear:
    """Total variation, written by somebody who did not read on."""

    def f(self, log_u):
        return log_u.expm1().abs()
'''


@pytest.fixture
def plugin(tmp_path) -> str:
    (tmp_path / "own.py").write_text(PLUGIN)
    return f"{tmp_path}/own.py"


def test_a_plugin_of_f_alone_agrees_with_its_closed_form(plugin: str):
    """f' = 1 - u^(-1/2): loss and gradient of two answers, by hand."""
    logits, ref = TREE.random(2).requires_grad_(), TREE.random(3)
    ctx = rankings(TREE, [(0, 4), (6, 2)], logits, ref)
    loss, _ = total(built(divergence=f"{plugin}:SquaredHellinger"), ctx)
    x = ratio(ctx)
    scores = 1 - torch.exp(-x / 2)
    expected = -logsigmoid(BETA * (scores[::2] - scores[1::2])).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, retain_graph=True)[0] for y in (loss, expected)), rtol=1e-10, atol=1e-14)
    with pytest.raises(RecipeError, match="constant f' on either side of 1"):
        built(divergence=f"{plugin}:Linear")


@pytest.mark.parametrize("name", LINKED)
def test_beyond_the_clamp_the_score_goes_on_along_its_tangent(name: str):
    """`clamp` bounds no answer's gradient away: the score is f' at the clamp, and from there a line of that slope in log u."""
    known, limit = LINKED[name], 0.5
    logits, ref = TREE.random(4).requires_grad_(), TREE.random(5)
    ctx = rankings(TREE, list(permutations(range(7), 2)), logits, ref)
    penalty = built(divergence=node(known), clamp=limit).regularizers[NAME].penalty(ctx, NAME)
    x = ratio(ctx).detach()
    beyond = x.abs() > limit
    assert torch.equal(penalty.shares["clamped"], beyond) and 0 < beyond.sum() < len(beyond)
    torch.testing.assert_close(penalty.log_ratio, x, rtol=1e-12, atol=1e-12)
    assert not penalty.log_ratio.requires_grad and penalty.loss is penalty.reward is None
    edge = x.clamp(-limit, limit).requires_grad_()
    u = edge.exp()
    (first,) = torch.autograd.grad(known(u).sum(), u, create_graph=True)
    (steep,) = torch.autograd.grad(first.sum(), edge)
    scores = first.detach() - slope(known, torch.zeros(1, dtype=torch.float64)) + steep * (x - edge.detach())
    torch.testing.assert_close(penalty.link.detach(), scores, rtol=1e-8, atol=1e-8)
    weights = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    found = torch.autograd.grad((weights * penalty.link).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad((weights * steep * ratio(ctx)).sum(), logits)[0], rtol=1e-8, atol=1e-8)


def test_the_default_clamp_is_that_of_a_whole_answer():
    assert built().regularizers[NAME].largest_log_ratio == 40.0
    assert built(clamp=3.0).regularizers[NAME].largest_log_ratio == 3.0


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_the_estimator_measures_beside_the_loss(estimator: str):
    """The value is logged and moves nothing; of the loss it is no part."""
    logits, ref = TREE.random(2).requires_grad_(), TREE.random(3)
    ctx = rankings(TREE, [(0, 4), (6, 2)], logits, ref)
    ctx = replace(ctx, exact={NAME: torch.linspace(0.1, 0.9, len(ctx.logp), dtype=torch.float64).requires_grad_()})
    loss, stats = total(built(divergence="forward_kl", estimator=estimator), ctx)
    plain, _ = total(built(divergence="forward_kl"), ctx)
    assert torch.equal(loss, plain) and f"loss/reg/{NAME}" not in stats
    log_u = (ctx.logp - ctx.batch.ref_logp[NAME]).detach()
    values = ctx.exact[NAME].detach() if estimator == "exact" else torch.exp(-log_u) * -log_u + 1 - torch.exp(-log_u)
    assert stats[f"divergence/{NAME}"].mean == pytest.approx((values.sum() / 4).item(), rel=1e-12)
