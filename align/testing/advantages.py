"""Checks of an advantage: one detached number per token, computed only from the batch columns in `needs`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from align.advantages import Advantage
from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit, again
from align.testing.formulas import MEND, explained
from align.types import Columns
from align.undeclared import Undeclared

KIT = Kit("advantage")
NAME = "unused"


def check_advantage(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of an advantage, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def batch(a: Advantage) -> Columns:
    """Forty answers of one to three tokens in float32, two per group, with rewards and only those columns that `a` needs."""
    ctx, _ = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)
    values = 0.3 * torch.cos(torch.arange(len(ctx.batch.seq_ids)) ** 2.0)
    rewards = torch.sin(torch.arange(len(ctx.batch.lengths)) ** 2.0)
    whole = replace(ctx.batch, loss_weights=None, penalty_weights={}, betas={}, values=values, rewards=rewards, advantages=None)
    return rewarded(whole.only(a.needs | {"rewards"}, a), rewards)


def rewarded(b: Columns, rewards: Tensor) -> Columns:
    """The batch with these rewards [S]; also as a part, beside another, if the advantage reads parts."""
    parts = {"own": rewards, "other": torch.cos(torch.arange(len(rewards)) ** 2.0)}
    return replace(b, rewards=rewards, **({} if isinstance(b.reward_parts, Undeclared) else {"reward_parts": parts}))


def wrong(found: Tensor, tokens: int) -> str | None:
    if found.shape != (tokens,) or found.dtype != torch.float32 or found.requires_grad or not found.isfinite().all():
        return f"{list(found.shape)} {found.dtype}{'' if found.isfinite().all() else ', not all finite'}, of {tokens} tokens"
    return None


@KIT.check("advantages", "return a detached float32 tensor of shape [T]; for one number per answer use `x[batch.seq_ids]`")
def _advantages(a: Advantage) -> str | None:
    """finite detached float32 numbers, one per token; also for equal rewards"""
    b = batch(a)
    equal = rewarded(b, torch.full_like(b.rewards, 0.7))
    return wrong(a.advantages(b), len(b.seq_ids)) or wrong(a.advantages(equal), len(b.seq_ids))


@KIT.check("returns", "return a detached float32 tensor of shape [T] from `returns`, or leave it out")
def _returns(a: Advantage) -> str | None:
    """the targets of a critic: finite detached float32 numbers, one per token"""
    b = batch(a)
    return wrong(a.returns(b), len(b.seq_ids))


@KIT.check("what it needs", "set `needs = frozenset({...})` to what it reads of old_logp, entropy, ref_logp, rewards, reward_parts, values")
def _needs(a: Advantage) -> str | None:
    """it reads no batch column that `needs` does not name"""
    a.advantages(batch(a).only(a.needs, a))
    return None


@KIT.check("direction", "a larger reward must not make its own answer worse: subtract the baseline from the reward")
def _direction(a: Advantage) -> str | None:
    """a larger reward, all else equal, never lowers the answer's advantage, and sometimes raises it"""
    b, gained = batch(a), 0.0
    for answer in range(4):
        mine = b.seq_ids == answer
        more = rewarded(b, torch.where(torch.arange(len(b.rewards)) == answer, b.rewards + 1.0, b.rewards))
        change = (a.advantages(more) - a.advantages(b))[mine].sum().item()
        if change < -1e-4:
            return f"a reward larger by 1 changed it by {change:.3g}"
        gained += change
    return None if gained > 0 else "no reward changes it"


@KIT.check("least samples", "set `least_samples = 2` if the baseline is the other answers of the group")
def _samples(a: Advantage) -> str | None:
    """with `least_samples` answers per prompt, some token has a nonzero advantage"""
    b = batch(a)
    groups = torch.arange(len(b.lengths)) // a.least_samples
    found = a.advantages(replace(b, group_ids=groups))
    return None if (found != 0).any() else f"all are 0 with {a.least_samples} a prompt"


@KIT.check("repeats", "draw no random numbers")
def _repeats(a: Advantage) -> str | None:
    """the same batch gives the same advantages, and the process's random state does not change"""
    state = torch.get_rng_state()
    if not torch.equal(a.advantages(batch(a)), again(a).advantages(batch(a))):
        return "they differ from call to call"
    return None if torch.equal(torch.get_rng_state(), state) else "it draws from the process's random numbers"


@KIT.check("leaves the batch alone", "copy a tensor before writing into it")
def _untouched(a: Advantage) -> str | None:
    """no tensor of the batch is written into"""
    b = batch(a)
    kept = {f.name: getattr(b, f.name).clone() for f in fields(b) if isinstance(getattr(b, f.name), Tensor)}
    a.advantages(b)
    changed = [name for name, tensor in kept.items() if not torch.equal(getattr(b, name), tensor)]
    return f"{', '.join(changed)} changed" if changed else None


@KIT.check("explained", MEND)
def _explained(a: Advantage) -> str | None:
    """it states its formula and the meaning of the symbols"""
    return explained(a)
