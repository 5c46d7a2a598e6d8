"""What PPO stores of a batch: values, returns and advantages, with the penalties and shapings in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from unit.ppo.learner import CRITICS, critic, make, shaped


@pytest.mark.parametrize("kind", CRITICS)
def test_values_are_those_of_the_weights_that_begin_the_batch(kind: str, folder: Path):
    made = make(folder, **critic(kind))
    batch = shaped(made)
    with torch.no_grad():
        now = made.critic.values(batch, made.policy.hidden(batch))
    assert batch.values.std() > 0.01 and not batch.values.requires_grad
    torch.testing.assert_close(batch.values, now, rtol=1e-4, atol=1e-5)
    before = batch.values.clone()
    made.update(batch, 0)
    with torch.no_grad():
        after = made.critic.values(batch, made.policy.hidden(batch))
    assert torch.equal(batch.values, before) and (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CRITICS)
def test_values_do_not_depend_on_micro_batches(kind: str, folder: Path):
    whole, cut = (shaped(make(folder, micro_tokens=n, **critic(kind))) for n in (10_000, 1))
    for a, b in (
        (whole.values, cut.values),
        (whole.returns, cut.returns),
        (whole.advantages, cut.advantages),
        (whole.reward_penalties["kl"].discounted, cut.reward_penalties["kl"].discounted),
        (whole.reward_penalties["kl"].direct, cut.reward_penalties["kl"].direct),
    ):
        assert a.std() > 1e-3
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_a_part_of_a_batch_keeps_what_is_its_own(folder: Path):
    batch = shaped(make(folder))
    chosen = torch.tensor([1, 4, 5, 11])
    part, kept = batch.select(chosen), torch.isin(batch.seq_ids, chosen)
    for a, b in (
        (part.values, batch.values),
        (part.returns, batch.returns),
        (part.advantages, batch.advantages),
        (part.reward_penalties["kl"].discounted, batch.reward_penalties["kl"].discounted),
        (part.reward_penalties["kl"].direct, batch.reward_penalties["kl"].direct),
    ):
        assert torch.equal(a, b[kept])


def test_returns_are_of_the_penalised_rewards(folder: Path):
    """At lam = 1: the reward minus what this token and those after it pay, whatever the critic says."""
    batch = shaped(make(folder, algorithm={"advantage": {"lam": 1.0, "whiten": False}}))
    charge = batch.reward_penalties["kl"]
    assert charge.discounted.min() >= 0 and charge.discounted.max() > 1e-4
    for s in range(12):
        mine = batch.seq_ids == s
        returns = batch.rewards[s] - charge.discounted[mine].flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(batch.returns[mine], returns, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(batch.advantages[mine], returns - batch.values[mine] - charge.direct[mine], rtol=1e-5, atol=1e-6)


def test_explained_variance_is_of_the_critic_that_began_the_batch(folder: Path):
    batch = shaped(make(folder))
    expected = 1 - (batch.returns - batch.values).var(correction=0) / batch.returns.var(correction=0)
    assert batch.shaped["critic/explained_variance"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_shaped_reward_is_what_the_critic_learns(folder: Path):
    """Answers beyond one token lose up to 1."""
    made = make(folder, shapings={"long": {"name": "overlong", "limit": 6, "buffer": 5}}, algorithm={"advantage": {"lam": 1.0}})
    plain, batch = shaped(make(folder, algorithm={"advantage": {"lam": 1.0}})), shaped(made)
    assert torch.equal(batch.rewards, plain.rewards)
    fine = -((batch.lengths - 1) / 5)[batch.seq_ids]
    assert fine.min() == -1
    torch.testing.assert_close(batch.returns - plain.returns, fine, rtol=1e-4, atol=1e-5)


def test_a_shaped_advantage_is_the_policys_alone(folder: Path):
    made = make(folder, shapings={"sure": "entropy_bonus"})
    plain, batch = shaped(make(folder)), shaped(made)
    assert torch.equal(batch.returns, plain.returns)
    expected = plain.advantages + torch.minimum(0.4 * batch.entropy, plain.advantages.abs() / 2)
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-5, atol=1e-6)
    assert batch.shaped["shaping/sure/advantages"] > 0 and "critic/explained_variance" in batch.shaped
