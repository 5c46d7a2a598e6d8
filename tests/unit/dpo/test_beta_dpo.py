"""beta-DPO by hand and in the learner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.built import single_turn
from helpers.followed import Followed
from torch.nn.functional import logsigmoid
from unit.dpo.pairs import BETA, batch, gradient, hf, log_ratios, make, moved

from align.coefficients.beta_dpo import BetaDpo
from align.types import TokenBatch


def margins(by_hand: list[list[float]]) -> TokenBatch:
    """Groups of answers of one token, whose log-ratios are these."""
    log_u = torch.tensor([x for group in by_hand for x in group])
    count, groups = len(log_u), torch.tensor([g for g, group in enumerate(by_hand) for _ in group])
    ones = torch.ones(count, dtype=torch.int64)
    return TokenBatch(
        input_ids=torch.zeros(count, 2, dtype=torch.int64),
        **single_turn(ones, ones),
        group_ids=groups,
        old_logp=log_u - 2,
        ref_logp={"kl": torch.full((count,), -2.0)},
    )


def test_beta_dpo_of_each_pair_by_hand():
    """1 + 0.6 (M_i - M_0), M_i = 0.5 (lr_w - lr_l): margins 1, -1 and, of three answers, the mean over the pairs 2, 1, -1."""
    rule, packed = Followed(BetaDpo(value=0.5, sensitivity=0.6, momentum=0.75)), margins([[1.0, -1.0], [0.5, 2.5], [3.0, -1.0, 1.0]])
    assert rule.beta(0) == rule.beta(9) == 0.5
    of_three = 0.5 * (4 + 2 - 2) / 3
    found = rule.multipliers(packed, "kl")
    torch.testing.assert_close(found, torch.tensor([1.6, 1.6, 0.4, 0.4, *[1 + 0.6 * of_three] * 3]))
    assert found.dtype == torch.float32 and torch.equal(rule.multipliers(packed, "kl"), found), "asking changes nothing"
    rule.update_batch(packed, "kl")
    mean = (1 - 1 + of_three) / 3
    assert rule.state == {"usual": pytest.approx(0.25 * mean)}
    torch.testing.assert_close(rule.multipliers(packed, "kl"), found - 0.6 * 0.25 * mean)
    rule.update_batch(packed, "kl")
    assert rule.state == {"usual": pytest.approx((0.75 * 0.25 + 0.25) * mean)}


def test_beta_dpo_of_a_batch_by_hand():
    rule = Followed(BetaDpo(value=0.5, sensitivity=1.5, momentum=0.0, per="batch"))
    assert rule.multipliers(margins([[1.0, -1.0], [2.5, 0.5]]), "kl").tolist() == [2.5] * 4
    rule.update_batch(margins([[1.0, -1.0], [2.5, 0.5]]), "kl")
    assert rule.multipliers(margins([[1.0, -1.0], [2.5, 0.5]]), "kl").tolist() == [1.0] * 4, "as usual"
    assert rule.multipliers(margins([[-9.0, 9.0]]), "kl").tolist() == pytest.approx([0.01] * 2), "never 0 or below"


@pytest.mark.parametrize("keys", [{"value": 0.0}, {"sensitivity": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"per": "token"}], ids=str)
def test_keys_of_beta_dpo_that_make_no_sense(keys: dict):
    with pytest.raises(ValueError, match=f"{next(iter(keys))} must"):
        BetaDpo(**keys)


@pytest.mark.parametrize("per", ["pair", "batch"])
def test_the_loss_has_the_beta_of_its_pair(model: Path, per: str):
    learner = moved(make(model, link={"coefficient": {"name": "beta_dpo", "value": BETA, "per": per}}))
    scored = batch(learner)
    x = log_ratios(learner.policy.module, hf(model), scored).detach()
    d = x[::2] - x[1::2]
    m = BETA * d if per == "pair" else (BETA * d).mean().expand(4)
    beta = BETA * (1 + 0.6 * m).clamp_min(0.01)
    assert (beta - BETA).abs().max() > 1e-3
    stats = gradient(learner, scored)[1]
    assert stats["loss/policy"].mean == pytest.approx(-logsigmoid(beta * d).mean().item(), rel=1e-4)
    assert stats["preference/margin"].mean == pytest.approx((beta * d).mean().item(), rel=1e-3)
