"""Surrogates and the baseline of RLOO: the published digits, and what each bound does to the gradient.

Against TRL itself: golden/test_trl_policy_losses.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.built import advantages as of_answers
from helpers.built import part, surrogate, weights
from torch import Tensor

from align.config import registry
from align.core.credit import Packing
from align.divergences.reverse_kl import ReverseKl
from align.errors import RecipeError

SURROGATES = registry.shipped("surrogate")


def number(x: list) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def one(name: str, rho: float, advantage: float, **keys: Any) -> tuple[float, float, bool]:
    """Loss, its slope in log rho, and whether it was cut, of a single token."""
    log_rho = number([rho]).log().requires_grad_()
    loss, cut = surrogate(name, log_rho, number([advantage]), Packing(torch.tensor([0]), torch.tensor([0])), **keys)
    return loss.item(), torch.autograd.grad(loss.sum(), log_rho)[0].item(), bool(cut)


# TG: TRL's toy of methods.md, two answers of four and three tokens.


TG_KEPT = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
TG_LOGP, TG_OLD, TG_REF = (
    number(p).log()[TG_KEPT]
    for p in (
        [[0.50, 0.30, 0.80, 0.60], [0.20, 0.90, 0.40, 0.70]],
        [[0.45, 0.40, 0.80, 0.50], [0.30, 0.85, 0.20, 0.70]],
        [[0.40, 0.35, 0.70, 0.60], [0.25, 0.80, 0.50, 0.60]],
    )
)
TG_AT = Packing(torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 3, 0, 1, 2]))
TG_ADVANTAGES = number([1.0, 1, 1, 1, -0.5, -0.5, -0.5])
TG_LENGTHS = torch.tensor([4, 3])


def tg(name: str, **keys: Any) -> Tensor:
    return surrogate(name, TG_LOGP - TG_OLD, TG_ADVANTAGES, TG_AT, **keys)[0]


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The reductions' weights are float32: 7 digits of a loss."""
    return (weights(reduction, TG_LENGTHS, 8)[TG_AT.seq_ids].double() * loss).sum()


def close(actual: Tensor, expected: float, digits: int = 7) -> None:
    torch.testing.assert_close(actual, torch.full_like(actual, expected), rtol=0, atol=0.5000001 * 10.0**-digits)


@pytest.mark.parametrize(
    ("name", "reduction", "expected"),
    [
        ("clipped", "sequence_mean", -0.1860702614),
        ("clipped", "token", -0.3045284781),
        ("clipped", "constant", -0.1332312092),
        ("sapo", "sequence_mean", -0.4776736547),
        ("sequence_clipped", "sequence_mean", -0.2195465531),
    ],
    ids=["grpo", "bnpo = dapo", "dr_grpo", "sapo", "grpo of sequences"],
)
def test_row_65_trl_losses(name: str, reduction: str, expected: float):
    close(reduced(tg(name), reduction), expected)


def test_row_65_luspo():
    close(reduced(tg("clipped"), "sequence_sum"), -1.0658496732, 6)


def test_row_66_trl_variants():
    """TRL's cispo is -w A log pi, ours reads as -w A; its cap of 1.2 is clip_high = .2, with no bound from below."""
    close(reduced(tg("cispo", clip_low=1.0) * TG_LOGP, "token"), 0.1953206567)
    close(reduced(tg("dual_clip", ceiling=1.5), "token"), -0.3402427638)
    delta, rho = TG_REF - TG_LOGP, (TG_LOGP - TG_OLD).exp()
    k3 = ReverseKl().khat(-delta)
    close(reduced(tg("clipped", clip_high=0.28) + 0.04 * rho * k3, "token"), -0.3038295350)
    close(reduced(tg("clipped", clip_high=0.28) + 0.04 * k3, "token"), -0.3039309023)
    of_sequence = (torch.zeros(2, dtype=torch.float64).index_add(0, TG_AT.seq_ids, TG_LOGP - TG_OLD) / TG_LENGTHS).exp()[TG_AT.seq_ids]
    close(reduced(tg("sequence_clipped") + 0.04 * of_sequence * k3, "sequence_mean"), -0.2188739949)


# One token


def test_row_62_the_gradient_stops_where_moving_on_would_gain():
    assert [one("clipped", *x)[1] for x in ((1.3, 1), (1.3, -1), (0.7, -1), (0.7, 1))] == pytest.approx([0, 1.3, 0, -0.7], abs=1e-15)
    assert [one("clipped", *x)[2] for x in ((1.3, 1), (1.3, -1), (0.7, -1), (0.7, 1))] == [True, False, True, False]


def test_row_63_dual_clip():
    assert one("dual_clip", 10, -1) == (3.0, 0.0, True)
    assert one("dual_clip", 10, -1, ceiling=5.0) == (5.0, 0.0, True)
    for rho, advantage in ((2.9, -1), (10, 1), (1.1, 1), (0.7, -1), (0.7, 1), (10, 0)):
        assert one("dual_clip", rho, advantage) == one("clipped", rho, advantage)


def test_reinforce_has_no_bound():
    for rho in (0.01, 0.7, 1.0, 10.0):
        loss, slope, cut = one("reinforce", rho, -2.0)
        assert loss == slope == pytest.approx(2 * rho, rel=1e-15) and not cut


@pytest.mark.parametrize(("rho", "weight", "cut"), [(0.5, 0.8, True), (1.1, 1.1, False), (7.0, 1.2, True)])
@pytest.mark.parametrize("advantage", [1.5, -2.0])
def test_cispo_bounds_the_weight_and_keeps_the_gradient(rho: float, weight: float, cut: bool, advantage: float):
    found = one("cispo", rho, advantage)
    assert found == (pytest.approx(-weight * advantage, rel=1e-15), pytest.approx(-weight * advantage, rel=1e-15), cut)
    assert one("cispo", 0.01, advantage, clip_low=1.0)[1] == pytest.approx(-0.01 * advantage, rel=1e-14), "no bound from below"


def test_row_69_sapo():
    """Slope 1 at rho = 1 on either side, none far out; tau = 1 for A > 0, 1.05 for A < 0."""
    for advantage in (1.0, -1.0):
        assert one("sapo", 1.0, advantage)[1] == pytest.approx(-advantage, rel=1e-15)
        assert abs(one("sapo", 1e3, advantage)[1]) < 1e-300
    assert one("sapo", 2.0, 1.0)[0] == pytest.approx(-4 / (1 + math.exp(-1)), rel=1e-14)
    assert one("sapo", 2.0, -1.0)[0] == pytest.approx(4 / 1.05 / (1 + math.exp(-1.05)), rel=1e-14)
    assert not one("sapo", 1e3, 1.0)[2]


# Whole answers


def draw(seed: int) -> tuple[Tensor, Tensor, Packing]:
    generator = torch.Generator().manual_seed(seed)
    log_rho = 0.2 * torch.randn(11, generator=generator, dtype=torch.float64)
    seq_ids = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2])
    advantages = torch.randn(3, generator=generator, dtype=torch.float64)[seq_ids]
    return log_rho.requires_grad_(), advantages, Packing(seq_ids, torch.tensor([0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]))


@pytest.mark.parametrize("seed", range(5))
def test_row_68_gspo_by_token_is_gspo_by_sequence(seed: int):
    """The value is that of the sequence's ratio at each of its tokens; the mean over a sequence has the sequence form's gradient."""
    log_rho, advantages, at = draw(seed)
    loss, cut = surrogate("sequence_clipped", log_rho, advantages, at, clip_low=0.05, clip_high=0.06)
    for s in range(3):
        mine = at.seq_ids == s
        ratio = log_rho[mine].mean().exp()
        form = -torch.minimum(ratio * advantages[mine][0], ratio.clamp(0.95, 1.06) * advantages[mine][0])
        torch.testing.assert_close(loss[mine], form.expand(int(mine.sum())), rtol=1e-14, atol=0)
        gradient = torch.autograd.grad(loss[mine].mean(), log_rho, retain_graph=True)[0]
        expected = torch.autograd.grad(form, log_rho, retain_graph=True)[0]
        torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)
        assert cut[mine].unique().tolist() == [bool((expected == 0).all())]


@pytest.mark.parametrize("seed", range(5))
def test_the_ratio_of_an_answer_weighs_every_token_by_its_own_advantage(seed: int):
    """Unclipped, the gradient is ratio * sum_t A_t grad log pi_t, whatever the advantages of the tokens."""
    log_rho, advantages, at = draw(seed)
    advantages = advantages + torch.linspace(-1, 1, 11, dtype=torch.float64)
    loss, cut = surrogate("answer_clipped", log_rho, advantages, at, clip_low=0.999999, clip_high=1e9)
    assert not cut.any() and torch.equal(loss[at.positions > 0], torch.zeros(8, dtype=torch.float64))
    ratio = torch.zeros(3, dtype=torch.float64).index_add(0, at.seq_ids, log_rho.detach()).exp()
    torch.testing.assert_close(loss[at.positions == 0], -ratio * advantages[at.positions == 0], rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), log_rho)[0], -ratio[at.seq_ids] * advantages, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_is_a_policy_gradient_at_pi_old(name: str):
    """At rho = 1 the gradient of each is -A grad log pi, and nothing is cut; of single precision it stays in it."""
    _, advantages, at = draw(0)
    for dtype in (torch.float32, torch.float64):
        log_rho = torch.zeros(11, dtype=dtype, requires_grad=True)
        loss, cut = surrogate(name, log_rho, advantages.to(dtype), at)
        assert loss.dtype == dtype and cut.dtype == torch.bool and not cut.any()
        gradient = torch.autograd.grad(loss.sum(), log_rho)[0]
        torch.testing.assert_close(gradient, -advantages.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("clipped", {"clip_low": 0.0}),
        ("clipped", {"clip_low": 1.1}),
        ("clipped", {"clip_high": 0.0}),
        ("cispo", {"clip_low": 0.0}),
        ("sequence_clipped", {"clip_high": -0.1}),
        ("answer_clipped", {"clip_low": 0.0}),
        ("dual_clip", {"ceiling": 1.2}),
        ("dual_clip", {"clip_low": 0.0}),
        ("sapo", {"temperature": 0.0}),
        ("sapo", {"temperature_negative": -1.0}),
    ],
)
def test_bounds_that_bound_nothing_are_refused(name: str, keys: dict[str, float]):
    with pytest.raises(RecipeError, match=next(iter(keys))):
        part("surrogate", name, **keys)


# The baseline of RLOO


@pytest.mark.parametrize("seed", range(3))
def test_row_61_leave_one_out(seed: int):
    """r minus the mean of the others, which is n/(n - 1) (r - mean); groups of any size, interleaved."""
    groups = torch.tensor([0, 1, 0, 2, 1, 1, 0, 0])
    rewards = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    others = (groups[:, None] == groups) & ~torch.eye(8, dtype=torch.bool)
    expected = [r - rewards[mine].mean().item() if mine.any() else 0.0 for r, mine in zip(rewards.tolist(), others, strict=True)]
    torch.testing.assert_close(of_answers("leave_one_out", rewards, groups), number(expected), rtol=1e-13, atol=1e-15)
    n = torch.bincount(groups)[groups]
    of_mean = of_answers("group_centred", rewards, groups) * n / (n - 1)
    torch.testing.assert_close(of_answers("leave_one_out", rewards, groups)[groups != 2], of_mean[groups != 2], rtol=1e-14, atol=0)


@pytest.mark.parametrize("reward", [0.0, 0.1, 1000.1])
def test_row_61_constant_rewards_teach_nothing(reward: float):
    assert torch.equal(of_answers("leave_one_out", torch.full((6,), reward), torch.arange(6) % 2), torch.zeros(6))
