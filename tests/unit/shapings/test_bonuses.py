"""`entropy_bonus`, `uncertainty_bonus` and `munchausen` by hand, and the noise of another context."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.built import single_turn
from torch import Tensor
from unit.shapings.batches import ADVANTAGES, ENTROPY, OLD, batch, close, shaped, shaping

from align.types import TokenBatch

# entropy_bonus


def test_entropy_bonus_by_hand():
    expected = [a + min(0.4 * h, abs(a) / 2) for a, h in zip(ADVANTAGES, ENTROPY, strict=True)]
    close(shaped("entropy_bonus"), expected)
    assert {min(0.4 * h, abs(a) / 2) == 0.4 * h for a, h in zip(ADVANTAGES, ENTROPY, strict=True)} == {True, False}
    lower = [a + min(0.1 * h, abs(a) / 1.5) for a, h in zip(ADVANTAGES, ENTROPY, strict=True)]
    close(shaped("entropy_bonus", gain=0.1, bound=1.5), lower)
    assert torch.equal(shaped("entropy_bonus").sign(), torch.tensor(ADVANTAGES).sign())


# uncertainty_bonus


def test_uncertainty_bonus_by_hand():
    """|A| = 1: u = 2 gives .5 and .5, u = .3 gives .12 and .30 (methods, row 35). `contexts` holds the symmetric sum, 2 u."""
    for u, entropy_part, divergence_part in ((2.0, 0.5, 0.5), (0.3, 0.12, 0.30)):
        every = torch.full((10,), u)
        both = shaped("uncertainty_bonus", batch(entropy=every, contexts={"x": 2 * every}), [1.0, -1.0] * 5, steps=9)
        close(both, [1 + entropy_part + divergence_part, -1 + entropy_part + divergence_part] * 5)
        same = shaped("uncertainty_bonus", batch(entropy=every, contexts={"x": 0 * every}), [1.0] * 10, steps=9)
        raw = shaped("uncertainty_bonus", batch(entropy=every), [1.0] * 10, steps=9)
        close(same, [1 + entropy_part] * 10)
        assert torch.equal(raw, same), "a batch without a disturbed prompt has no second branch"


@pytest.mark.parametrize("key", ["entropy_gain", "entropy_bound", "divergence_gain", "divergence_bound"])
def test_every_gain_and_bound_counts(key: str):
    many = batch(contexts={"x": torch.tensor(ENTROPY).flip(0)})
    assert not torch.equal(shaped("uncertainty_bonus", many, steps=9), shaped("uncertainty_bonus", many, steps=9, **{key: 3.0}))


def prompts(of: TokenBatch) -> list[list[int]]:
    return [of.input_ids[i, :n].tolist() for i, n in enumerate(of.first_columns.tolist())]


def test_other_context_leaves_out_prompt_tokens_and_nothing_else():
    one = batch(input_ids=torch.tensor([list(range(10)), list(range(10)), list(range(10)), list(range(20, 30))]))
    other = shaping("uncertainty_bonus", steps=10**6, share=0.5).other_context(one)
    assert torch.equal(other.tokens, one.tokens) and torch.equal(other.lengths, one.lengths)
    before, after = prompts(one), prompts(other)
    assert after[0] == after[1] == after[2], "a group shares its prompt, and its disturbed prompt"
    for old, new in zip(before, after, strict=True):
        assert new == [t for t in old if t in new] and new[-1] == old[-1]
    assert after != before
    masked = shaping("uncertainty_bonus", steps=10**6, share=0.5, mask_id=99).other_context(one)
    kept = [[t for t in row if t != 99] for row in prompts(masked)]
    assert kept == after and [len(p) for p in prompts(masked)] == [5, 5, 5, 3]


def test_the_share_the_schedule_and_the_seed_of_the_noise():
    groups = torch.arange(2000)
    wide = TokenBatch(
        input_ids=torch.ones(2000, 13, dtype=torch.int64), **single_turn(torch.full((2000,), 11), torch.ones(2000).long()), group_ids=groups
    )

    def hit(step: int, **keys) -> Tensor:
        other = shaping("uncertainty_bonus", steps=100, mask_id=0, **keys).other_context(replace(wide, step=step))
        return torch.zeros(2000, 13).bool() if other is None else other.input_ids == 0

    # A binomial share of n tokens has standard deviation sqrt(p q/n): 0.0042 at most over the 20000 here. Groups: 0.011.
    assert hit(0)[:, :10].float().mean() == pytest.approx(0.1, abs=0.017)
    assert hit(0, share=0.4)[:, :10].float().mean() == pytest.approx(0.4, abs=0.017)
    assert hit(75, share=0.9)[:, :10].any(1).float().mean() == pytest.approx(0.25, abs=0.045)
    assert not hit(0, share=0.9)[:, 10:].any(), "the last prompt token and what follows stay"
    assert not hit(100).any() and not hit(250).any()
    assert not torch.equal(hit(0), hit(0, seed=1)) and not torch.equal(hit(1), hit(2)) and torch.equal(hit(1), hit(1))


# munchausen


def test_munchausen_by_hand():
    bonus = [0.9 * max(0.03 * x, -1.0) for x in OLD]
    assert 0.9 * -1.0 in bonus, "one is at the floor"
    close(shaped("munchausen"), [a + b for a, b in zip(ADVANTAGES, bonus, strict=True)])
    others = [a + 0.5 * max(0.1 * x, -0.06) for a, x in zip(ADVANTAGES, OLD, strict=True)]
    close(shaped("munchausen", alpha=0.5, tau=0.1, floor=-0.06), others)
    close(shaped("munchausen", q=2.0), [a + 0.9 * 0.03 * (math.exp(x) - 1) for a, x in zip(ADVANTAGES, OLD, strict=True)])
    close(
        shaped("munchausen", q=0.5, floor=-0.02),
        [a + 0.9 * max(0.06 * (1 - math.exp(-x / 2)), -0.02) for a, x in zip(ADVANTAGES, OLD, strict=True)],
    )
    near = shaped("munchausen", q=1 + 1e-6)
    torch.testing.assert_close(near, shaped("munchausen"), rtol=0, atol=1e-4)


def test_munchausen_as_a_reward_reaches_the_tokens_before():
    b = [0.9 * max(0.03 * x, -1.0) for x in OLD]
    later = [b[1], 0, 0, b[4] + b[5], b[5], 0, b[7] + b[8] + b[9], b[8] + b[9], b[9], 0]
    close(shaped("munchausen", credit="summed"), [a + own + rest for a, own, rest in zip(ADVANTAGES, b, later, strict=True)])


def test_munchausens_identity():
    """<pi, q + bonus> + tau H(pi) = <pi, q> - alpha tau KL(pi||pi_k) + (1 - alpha) tau H(pi), nothing clipped (methods, row 31)."""
    generator = torch.Generator().manual_seed(0)
    q, pi, before = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    pi, before = torch.softmax(pi, 0), torch.softmax(before, 0)
    alpha, tau = 0.7, 0.2
    rewarded = shaping("munchausen", alpha=alpha, tau=tau, floor=-100.0).advantages(batch(old_logp=before.log()), q, "x")
    entropy, kl = -(pi * pi.log()).sum(), (pi * (pi / before).log()).sum()
    torch.testing.assert_close(
        (pi * rewarded).sum() + tau * entropy, (pi * q).sum() - alpha * tau * kl + (1 - alpha) * tau * entropy, rtol=0, atol=1e-15
    )
