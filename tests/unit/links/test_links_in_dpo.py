"""The scores of a link in a preference loss: `Dpo.loss` and the objective around it, as a learner runs them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.built import algorithm
from helpers.enumeration import NAME
from torch import Tensor
from torch.nn.functional import logsigmoid
from unit.links.rankings import BETA, TREE, built, rankings, ratio, total

from align.algorithms.dpo import Dpo
from align.algorithms.reward_model import RewardModel
from align.contexts import Link, TokenContext
from align.errors import RecipeError
from align.experience.packing import pack
from align.types import Episode, Group, Prompt
from align.weightings.sampo import Sampo


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
    assert (Dpo.samples, Dpo.ranks, Dpo.links, Dpo.trains_reward_model) == (False, True, True, False)
    assert (RewardModel.samples, RewardModel.ranks, RewardModel.links, RewardModel.trains_reward_model) == (False, True, False, True)
