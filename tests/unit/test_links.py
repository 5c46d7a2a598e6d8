"""The regularizer as the link of a preference loss: `Composed.penalty`, `Dpo.loss` and the objective between them, as a learner runs them.

A population is every ordered pair of the answers of a small tree, as a group of two, best first; the weight of a pair is how often it is
labelled so. What the loss should have its minimum at is computed from f as its paper writes it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from built import algorithm, single_turn
from torch import Tensor
from torch.nn.functional import logsigmoid
from unit.definitions import Known, every
from unit.enumeration import NAME, Problem
from unit.regularizer_oracles.cells import CREDITS, DIVERGENCES, ESTIMATORS, NO_EXPECTATION, OF_KL, asked, composed

from align.algorithms.dpo import Dpo
from align.algorithms.reward_model import RewardModel
from align.config import recipes, registry
from align.config.schema import Recipe
from align.errors import RecipeError
from align.experience.packing import pack
from align.learner import objective
from align.learner.metric_accumulator import MetricAccumulator
from align.types import Episode, Group, Link, Prompt, Stat, TokenBatch, TokenContext
from align.weightings.sampo import Sampo

TREE = Problem(3, 2, end=1)
"""Seven answers of one or two tokens."""
BETA = 0.5
"""Not 1, and a power of two: it and its inverse travel in float32."""
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


def built(algorithm: dict | str = "dpo", **regularizer) -> Recipe:
    """A recipe that learns preferences through this link, checked as every recipe is."""
    return recipes.build(
        {
            "steps": 4,
            "task": {"name": "preferences", "path": "nowhere.jsonl"},
            "algorithm": algorithm,
            "model": {"path": "nowhere"},
            "regularizers": {NAME: {"placement": "link", "coefficient": BETA} | regularizer},
        }
    )


def node(known: Known) -> dict:
    word = next(n for n in registry.shipped("divergence") if registry.resolve("divergence", n, n) is type(known.divergence))
    return {"name": word, **known.keys}


def rankings(
    problem: Problem,
    orders: list[tuple[int, ...]],
    logits: Tensor,
    ref: Tensor,
    weights: Tensor | None = None,
    multipliers: Tensor | None = None,
) -> TokenContext:
    """Each order of answers as a group, best first; `weights` [G] as the share of each in the mean over all answers."""
    answers = [problem.answers[i] for order in orders for i in order]
    token = {s: [] for s in range(len(problem.answers))}
    for t, (s, *_) in enumerate(problem.steps()):
        token[s].append(t)
    at = torch.tensor([t for order in orders for i in order for t in token[i]])
    lengths = torch.tensor([len(a) for a in answers])
    seq_ids = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    group_ids = torch.repeat_interleave(torch.arange(len(orders)), torch.tensor([len(order) for order in orders]))
    share = torch.full((len(orders),), 1 / len(orders), dtype=torch.float64) if weights is None else weights
    each = share[group_ids] / torch.bincount(group_ids)[group_ids]
    batch = TokenBatch(
        input_ids=torch.zeros(len(answers), 1 + problem.depth, dtype=torch.int64),
        **single_turn(torch.ones_like(lengths), lengths),
        group_ids=group_ids,
        loss_weights=each[seq_ids],
        ref_logp={NAME: problem.token_logp(ref)[at]},
        betas={NAME: BETA},
        prompt_ids=tuple(map(str, group_ids.tolist())),
        multipliers={} if multipliers is None else {NAME: multipliers},
        penalty_weights={NAME: torch.ones(len(seq_ids), dtype=torch.float64)},
    )
    return TokenContext(batch=batch, logp=problem.token_logp(logits)[at], entropy=torch.zeros(len(seq_ids)))


def total(made: Recipe, ctx: TokenContext) -> tuple[Tensor, dict[str, Stat]]:
    """What the learner differentiates, and what it reports."""
    losses, tally = MetricAccumulator(), MetricAccumulator()
    loss = objective.total(made, ctx, losses, tally)
    tally.merge(losses)
    return loss, tally.stats()


def ratio(ctx: TokenContext) -> Tensor:
    """log pi/ref of whole answers, by hand."""
    per_token = ctx.logp - ctx.batch.ref_logp[NAME]
    return torch.stack([per_token[ctx.batch.seq_ids == s].sum() for s in range(len(ctx.batch.lengths))])


def slope(known: Known, log_u: Tensor) -> Tensor:
    """f'(u), by autograd of f as its paper writes it."""
    u = log_u.exp().requires_grad_()
    (found,) = torch.autograd.grad(known(u).sum(), u)
    return found


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


# What DPO makes of them


def scores_of(ctx: TokenContext, beta: Tensor | None = None) -> TokenContext:
    """With the log-ratios themselves as scores."""
    x = ratio(ctx)
    return replace(
        ctx, link=Link(scores=x, log_ratio=x.detach(), beta=torch.full((len(x),), BETA, dtype=torch.float64) if beta is None else beta)
    )


def mean_loss(algorithm: Dpo, ctx: TokenContext) -> Tensor:
    """Mean over groups, each weighing the same."""
    per_token, _ = algorithm.loss(ctx, None)
    assert (per_token[ctx.batch.positions > 0] == 0).all()
    return (ctx.batch.loss_weights * per_token).sum()


def test_rankings_weigh_all_their_pairs_alike_and_groups_too():
    """Of 2, 3 and 5 answers: each group's loss is the mean over its 1, 3 and 10 pairs, the batch's the mean over groups."""
    orders = [(3, 1), (0, 5, 2), (6, 1, 4, 0, 2)]
    logits, ref = TREE.random(2).requires_grad_(), TREE.random(3)
    ctx = rankings(TREE, orders, logits, ref)
    x = TREE.answer_logp(logits) - TREE.answer_logp(ref)
    by_group = [
        sum(-logsigmoid(BETA * (x[o[i]] - x[o[j]])) for i in range(len(o)) for j in range(i + 1, len(o))) / math.comb(len(o), 2)
        for o in orders
    ]
    expected = sum(by_group) / 3
    found, stats = total(built(), ctx)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, retain_graph=True)[0] for y in (found, expected)), rtol=1e-10, atol=1e-14)
    assert stats["preference/accuracy"].count == stats["preference/margin"].count == 1 + 3 + 10
    pairs = [(o[i], o[j]) for o in orders for i in range(len(o)) for j in range(i + 1, len(o))]
    assert stats["preference/accuracy"].mean == pytest.approx(sum((x[i] > x[j]).item() for i, j in pairs) / 14)
    assert stats["preference/margin"].mean == pytest.approx(sum(BETA * (x[i] - x[j]).item() for i, j in pairs) / 14, rel=1e-6)
    assert stats["preference/chosen"].mean == pytest.approx(sum(x[i].item() for i, _ in pairs) / 14, rel=1e-6)
    assert stats["preference/rejected"].mean == pytest.approx(sum(x[j].item() for _, j in pairs) / 14, rel=1e-6)


def test_groups_need_not_be_numbered_without_gaps():
    """A micro-batch keeps the numbers of the batch it was cut from."""
    ctx = scores_of(rankings(TREE, [(3, 1), (0, 5)], TREE.random(2), TREE.random(3)))
    apart = replace(ctx, batch=replace(ctx.batch, group_ids=ctx.batch.group_ids * 5 + 3))
    assert torch.equal(mean_loss(algorithm("dpo"), ctx), mean_loss(algorithm("dpo"), apart))


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "cdpo", "robust"])
def test_every_preference_by_hand_with_a_beta_for_each_pair(loss: str):
    ctx = rankings(TREE, [(3, 1), (0, 5), (2, 6)], TREE.random(2), TREE.random(3))
    beta, e = torch.tensor([0.3, 0.3, 2.0, 2.0, 0.7, 0.7], dtype=torch.float64), 0.2
    preference = {"name": loss} | ({"label_smoothing": e} if loss in ("cdpo", "robust") else {})
    x = ratio(ctx)
    d, b = x[::2] - x[1::2], beta[::2]
    z = b * d
    expected = {
        "sigmoid": torch.log1p(torch.exp(-z)),
        "hinge": (1 - z).clamp_min(0),
        "ipo": (d - 1 / (2 * b)) ** 2,
        "cdpo": torch.log1p(torch.exp(-z)) + e * z,
        "robust": torch.log1p(torch.exp(-z)) - e / (1 - 2 * e) * z,
    }[loss]
    found = mean_loss(algorithm("dpo", preference=preference), scores_of(ctx, beta))
    torch.testing.assert_close(found, expected.mean(), rtol=1e-12, atol=0)
    margin = algorithm("dpo", preference=preference).loss(scores_of(ctx, beta), None)[1]["preference/margin"]
    torch.testing.assert_close(margin, z, rtol=1e-12, atol=1e-14)


def test_multipliers_of_a_prompt_scale_its_beta():
    logits, ref = TREE.random(2), TREE.random(3)
    multipliers = torch.tensor([2.0, 2.0, 0.5, 0.5])
    found, _ = total(built(), rankings(TREE, [(3, 1), (0, 5)], logits, ref, multipliers=multipliers))
    x = TREE.answer_logp(logits) - TREE.answer_logp(ref)
    expected = -(logsigmoid(2 * BETA * (x[3] - x[1])) + logsigmoid(0.5 * BETA * (x[0] - x[5]))) / 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_per_token_divides_each_score_by_its_length(loss: str):
    """methods.md K: TRL's ipo is (x/|w| - y/|l| - 1/(2 beta))^2, its sigmoid_norm -log sigmoid(beta (x/|w| - y/|l|))."""
    logits, ref = TREE.random(2), TREE.random(3)
    ctx = rankings(TREE, [(0, 4), (1, 0)], logits, ref)
    assert ctx.batch.lengths.tolist() == [1, 2, 2, 1]
    x = TREE.answer_logp(logits) - TREE.answer_logp(ref)
    d = torch.stack([x[0] - x[4] / 2, x[1] / 2 - x[0]])
    expected = -logsigmoid(BETA * d) if loss == "sigmoid" else (d - 1 / (2 * BETA)) ** 2
    found, stats = total(built({"name": "dpo", "preference": loss, "per_token": True}), ctx)
    torch.testing.assert_close(found, expected.mean(), rtol=1e-12, atol=0)
    assert stats["preference/margin"].mean == pytest.approx(BETA * d.mean().item(), rel=1e-6)
    assert stats["preference/chosen"].mean == pytest.approx((x[0] + x[1]).item() / 2, rel=1e-6), "of the whole answer, whatever is divided"


def sampo(lengths: list[int], logp: Tensor, seed: int = 0) -> TokenContext:
    """Pairs of answers of these lengths, weighed by SamPO."""
    groups = [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=(3, 4)),
            episodes=tuple(Episode.single_turn(torch.arange(n).int().numpy(), "") for n in lengths[2 * g : 2 * g + 2]),
        )
        for g in range(len(lengths) // 2)
    ]
    batch = replace(pack(groups, None), betas={NAME: BETA}, ref_logp={NAME: torch.zeros_like(logp)})
    weights = Sampo(seed).weights(batch, NAME)
    loss_weights = torch.full_like(logp, 1 / len(lengths))
    return TokenContext(batch=replace(batch, penalty_weights={NAME: weights}, loss_weights=loss_weights), logp=logp, entropy=logp * 0)


def test_sampo_of_equal_lengths_is_dpo():
    """methods.md row 39."""
    ctx = sampo([4, 4, 6, 6], torch.linspace(-1, 1.3, 20, dtype=torch.float64))
    plain = replace(ctx, batch=replace(ctx.batch, penalty_weights={NAME: torch.ones(20)}))
    assert torch.equal(total(built(), ctx)[0], total(built(), plain)[0])


def test_sampo_counts_as_many_tokens_of_either_answer():
    """Constant log-ratio c a token: T_m c exactly. Of others, T_m/|y| of the sum on average over draws."""
    c = torch.tensor([0.25] * 3 + [-0.5] * 7, dtype=torch.float64).requires_grad_()
    loss, stats = total(built(), sampo([3, 7], c))
    torch.testing.assert_close(loss, -logsigmoid(BETA * torch.tensor(3 * 0.25 + 3 * 0.5, dtype=torch.float64)), rtol=1e-12, atol=0)
    assert stats["preference/rejected"].mean == -1.5
    felt = torch.autograd.grad(loss, c)[0] != 0
    assert felt[:3].all() and felt[3:].sum() == 3, "what was not drawn has no gradient"
    uneven = torch.tensor([0.1, 0.2, 0.3, 1.0, -2.0, 0.5, 3.0, 0.0, -1.0, 2.0], dtype=torch.float64)
    regularizer = built().regularizers[NAME]
    drawn = torch.stack([regularizer.penalty(sampo([3, 7], uneven, seed), NAME).log_ratio for seed in range(1000)])
    assert (drawn[:, 0] - 0.6).abs().max() < 1e-12
    error = drawn[:, 1].std() / 1000**0.5
    assert abs(drawn[:, 1].mean() - 3 / 7 * uneven[3:].sum()) < 3 * error and error < 0.1


# Keys


@pytest.mark.parametrize(
    ("keys", "where", "says"),
    [
        ({"preference": "sigmiod"}, "algorithm.preference", "no preference is called 'sigmiod'; did you mean 'sigmoid'?"),
        ({"label_smoothing": 0.1}, "algorithm.label_smoothing", "algorithm.preference: {name: cdpo, label_smoothing: ...}"),
        ({"preference": {"name": "sigmoid", "label_smoothing": 0.1}}, "algorithm.preference.label_smoothing", "unknown key"),
        ({"preference": "robust"}, "algorithm.preference.label_smoothing", "must be given"),
        ({"preference": {"name": "cdpo", "label_smoothing": 0.5}}, "algorithm.preference", "at 1/2 the labels say nothing"),
        ({"preference": {"name": "cdpo", "label_smoothing": -0.1}}, "algorithm.preference", "must lie in"),
        ({"epochs": 0}, "algorithm", "epochs must be at least 1"),
    ],
    ids=str,
)
def test_keys_of_dpo_that_make_no_sense(keys: dict, where: str, says: str):
    with pytest.raises(RecipeError) as refused:
        built({"name": "dpo"} | keys)
    assert refused.value.where == where and says in str(refused.value)


def test_who_links_and_who_does_not():
    assert (Dpo.samples, Dpo.ranks, Dpo.links, Dpo.scores) == (False, True, True, False)
    assert (RewardModel.samples, RewardModel.ranks, RewardModel.links, RewardModel.scores) == (False, True, False, True)
