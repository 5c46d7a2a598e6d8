"""Rows 79 and 80 of the methods' oracle table: padding, and a penalty with beta 0."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden.methods_table.token_contexts import TG_ADVANTAGES, reduced, tg
from golden.methods_table.toys import SHIPPED, regularizer
from helpers.built import algorithm, single_turn
from helpers.enumeration import NAME

from align.estimators.sampled import Sampled


@pytest.mark.parametrize("garbage", [0, -(10**9), 2**62])
def test_row_79_padding_does_not_matter(garbage):
    """Response tokens are packed, so only `input_ids` has padding: its content, and more of it, change neither tokens nor a selection."""
    batch = tg().batch
    prompts = torch.tensor([2, 3])
    ids = torch.arange(20).reshape(2, 10)
    used = torch.arange(10) < (prompts + batch.lengths)[:, None]
    clean = replace(batch, input_ids=torch.where(used, ids, 0), **single_turn(prompts, batch.lengths))
    dirty = replace(clean, input_ids=torch.cat([torch.where(used, ids, garbage), torch.full((2, 5), garbage)], 1))
    assert clean.tokens.tolist() == dirty.tokens.tolist() == [2, 3, 4, 5, 13, 14, 15]
    for sequence in (0, 1):
        parts = [b.select(torch.tensor([sequence])) for b in (clean, dirty)]
        assert torch.equal(parts[0].input_ids, parts[1].input_ids)
        assert parts[0].input_ids.shape == (1, 6)
        assert parts[0].tokens.tolist() == clean.tokens[clean.seq_ids == sequence].tolist()


@pytest.mark.parametrize("placement", ["loss", "reward"])
@pytest.mark.parametrize("credit", ["local", "summed", "sequence"])
@pytest.mark.parametrize("divergence", SHIPPED)
def test_row_80_beta_zero_is_the_bare_algorithm(divergence, credit, placement):
    """Bit for bit, loss and gradient."""
    results = []
    for regularized in (False, True):
        ctx = tg()
        advantages, extra = TG_ADVANTAGES, 0.0
        if regularized:
            penalty = regularizer(SHIPPED[divergence], Sampled(), placement, credit).penalty(ctx, NAME)
            if placement == "reward":
                advantages = advantages - 0.0 * penalty.reward
            else:
                extra = 0.0 * penalty.loss
        loss = reduced(algorithm("grpo").loss(ctx, advantages)[0] + extra, ctx, "token")
        results.append((loss.detach(), *torch.autograd.grad(loss, ctx.logp)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][1].abs().max() > 0.05
