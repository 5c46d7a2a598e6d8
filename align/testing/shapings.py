"""Checks of a shaping: rewards and advantages of unchanged shape, computed only from the batch columns in `needs`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.shapings import Shaping
from align.testing.findings import Finding, Kit, again
from align.types import EARLY, Columns, TokenBatch

KIT = Kit("shaping")
NAME = "shaped"


def check_shaping(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a shaping, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def batch(s: Shaping) -> tuple[Columns, Tensor]:
    """Forty answers in float32, two per group, with rewards and the columns that `s` needs; and advantages [T] of both signs."""
    ctx, _ = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)
    between = {NAME: ctx.entropy} if s.context_divergence is not None else {}
    whole = replace(ctx.batch, loss_weights=None, penalty_weights={}, betas={}, contexts=between, reward_parts=_parts(ctx.batch)).only(
        EARLY, s
    )
    return whole.only(s.needs - {"advantages", "ref_logp"} | {"rewards"}, s), whole.advantages


def _parts(b: TokenBatch) -> dict[str, Tensor]:
    n = torch.arange(len(b.lengths))
    return {"first": torch.sin(n**2.0), "second": torch.cos(n**2.0)}


def shaped(s: Shaping, b: Columns, advantages: Tensor) -> tuple[Tensor, Tensor]:
    return s.rewards(b, b.rewards), s.advantages(b, advantages, NAME)


def same_prompts(one: TokenBatch | None, two: TokenBatch | None) -> bool:
    return one is two if one is None or two is None else torch.equal(one.input_ids, two.input_ids)


@KIT.check("shapes", "return detached float32 rewards [S] and advantages [T]; set `needs` to read old_logp or entropy")
def _shapes(s: Shaping) -> str | None:
    """finite detached float32 numbers: one reward per answer, one advantage per token"""
    b, advantages = batch(s)
    for name, found, wanted in zip(("rewards", "advantages"), shaped(s, b, advantages), (b.rewards, advantages), strict=True):
        if found.shape != wanted.shape or found.dtype != torch.float32 or found.requires_grad or not found.isfinite().all():
            return f"{name} are {list(found.shape)} {found.dtype}{', not all finite' if not found.isfinite().all() else ''}"
    return None


@KIT.check("what it needs", "set `needs = frozenset({...})` to what it reads of old_logp, entropy, rewards, values")
def _needs(s: Shaping) -> str | None:
    """it reads no batch column that `needs` does not name"""
    b, advantages = batch(s)
    bare = b.only(s.needs, s)
    s.rewards(bare, b.rewards), s.advantages(bare, advantages, NAME), s.metrics(bare, NAME), s.other_context(bare)
    return None


@KIT.check("repeats", "draw random numbers from a generator seeded by a key of the shaping and by batch.step, never from the process")
def _repeats(s: Shaping) -> str | None:
    """the same batch gives the same results, other prompts included, and the process's random state does not change"""
    b, advantages = batch(s)
    state = torch.get_rng_state()
    one, two = ((shaped(part, b, advantages), part.other_context(b)) for part in (s, again(s)))
    if not all(torch.equal(x, y) for x, y in zip(one[0], two[0], strict=True)):
        return "it differs from call to call"
    if not same_prompts(one[1], two[1]):
        return "the other prompts differ from call to call"
    return None if torch.equal(torch.get_rng_state(), state) else "it draws from the process's random numbers"


@KIT.check("leaves the batch alone", "copy a tensor before writing into it: weightings and logs read the unshaped rewards")
def _untouched(s: Shaping) -> str | None:
    """no tensor of the batch is written into"""
    b, advantages = batch(s)
    kept = {f.name: getattr(b, f.name).clone() for f in fields(b) if isinstance(getattr(b, f.name), Tensor)}
    given = advantages.clone()
    shaped(s, b, advantages)
    s.metrics(b, NAME)
    changed = [name for name, tensor in kept.items() if not torch.equal(getattr(b, name), tensor)]
    changed += [] if torch.equal(given, advantages) else ["advantages"]
    return f"{', '.join(changed)} changed" if changed else None


@KIT.check("other prompts", "change only prompts: the answers and their positions must match, token by token")
def _context(s: Shaping) -> str | None:
    """other_context has the same answers after other prompts, and there is a context_divergence"""
    b, _ = batch(s)
    other = s.other_context(b)
    if (other is None) != (s.context_divergence is None):
        return "it defines only one of other_context and context_divergence"
    return None if other is None or torch.equal(other.tokens, b.tokens) else "its answers are others"


@KIT.check("metrics", "return a dict of finite Python floats")
def _metrics(s: Shaping) -> str | None:
    """its own metrics are finite numbers"""
    found = s.metrics(batch(s)[0], NAME)
    wrong = next((k for k, v in found.items() if not isinstance(v, int | float) or v != v or abs(v) == float("inf")), None)
    return None if wrong is None else f"{wrong} is {found[wrong]!r}"
