"""One batch for every part that looks at batches."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch
from helpers.enumeration import NAME, Problem

from align.contexts import TokenContext
from align.divergences.reverse_kl import ReverseKl


@cache
def context() -> TokenContext:
    """Every answer of up to three tokens, in ten groups, with everything that a part may look at."""
    problem = Problem(vocabulary=4, depth=3, end=0)
    logits, old, ref, sampler = (problem.random(seed, 0.7 if seed else 1.0) for seed in range(4))
    ctx = problem.context(logits.requires_grad_(), old, ref, ReverseKl(), sampler=old + 0.2 * sampler)
    batch, count = ctx.batch, len(problem.answers)
    rewards = torch.tensor([(0.0, 0.6, 1.0, 1.6, 0.3)[(i // 3 + 2) % 5] for i in range(count)])
    groups = torch.arange(count) % 10
    rewards[groups == 0] = 0.0
    advantages = torch.tensor([(-1.0, 0.5, 0.0, 2.0, -0.3)[t % 5] for t in range(len(batch.seq_ids))])
    same = torch.arange(len(batch.seq_ids)) % 7 == 0
    ref_logp = {NAME: torch.where(same, batch.old_logp, batch.ref_logp[NAME])}
    batch = dataclasses.replace(
        batch,
        group_ids=groups,
        rewards=rewards,
        reward_parts={"first": rewards, "second": torch.sin(torch.arange(count) ** 2.0)},
        advantages=advantages,
        ref_logp=ref_logp,
        entropy=ctx.entropy.float(),
        contexts={NAME: 0.3 * ctx.entropy.float()},
        input_ids=batch.input_ids.clamp_min(0),
    )
    return dataclasses.replace(ctx, batch=batch)
