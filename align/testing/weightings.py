"""Checks of a weighting: one detached number >= 0 per token, computed only from the batch columns in `needs`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit, again, shown
from align.types import Columns, TokenBatch
from align.weightings import Weighting

KIT = Kit("weighting")
NAME = "weighed"


def check_weighting(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a weighting, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def whole() -> TokenBatch:
    """Forty answers of one to three tokens in float32, two per group, with rewards and log-probs."""
    ctx, _ = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)
    return replace(ctx.batch, loss_weights=None, penalty_weights={})


def batch(w: Weighting) -> Columns:
    """`whole`, with only the columns that `w` needs."""
    return whole().only(w.needs, w)


@KIT.check("weights", "return float32 weights of shape [T], made from detached tensors; a negative weight drives the policy away")
def _weights(w: Weighting) -> str | None:
    """finite detached float32 numbers, one per token, at least 0"""
    b = batch(w)
    found = w.weights(b, NAME)
    if found.shape != b.seq_ids.shape or found.dtype != torch.float32:
        return f"{list(found.shape)} {found.dtype} for {len(b.seq_ids)} tokens"
    if found.requires_grad:
        return "they carry a gradient"
    wrong = ~found.isfinite() if w.signed else ~(found >= 0) | ~found.isfinite()
    return f"one is {shown(found[wrong][0])}" if wrong.any() else None


@KIT.check("what it needs", "set `needs = frozenset({...})` to what it reads of old_logp, entropy, ref_logp, `types.REWARDED`")
def _needs(w: Weighting) -> str | None:
    """it reads no batch column that `needs` does not name"""
    w.weights(batch(w), NAME)
    return None


@KIT.check("its own reference", "read `batch.ref_logp[name]`: there is one for each regularizer")
def _own(w: Weighting) -> str | None:
    """it reads only the reference of its own regularizer"""
    b, own = batch(w), whole().ref_logp[NAME]
    other = own.flip(0) - 1
    both = replace(b, ref_logp={"first": other, NAME: own, "last": other})
    return None if torch.equal(w.weights(both, NAME), w.weights(b, NAME)) else "another regularizer's reference changes the weights"


@KIT.check("repeats", "draw random numbers from a generator seeded by a key of the weighting and by the batch, never from the process")
def _repeats(w: Weighting) -> str | None:
    """the same batch gives the same weights, and the process's random state does not change"""
    state = torch.get_rng_state()
    one = w.weights(batch(w), NAME)
    two = again(w).weights(batch(w), NAME)
    if not torch.equal(one, two):
        return "the weights differ from call to call"
    return None if torch.equal(torch.get_rng_state(), state) else "it draws from the process's random numbers"


@KIT.check("leaves the batch alone", "copy a tensor before writing into it")
def _untouched(w: Weighting) -> str | None:
    """no tensor of the batch is written into"""
    b = batch(w)
    kept = {f.name: getattr(b, f.name).clone() for f in fields(b) if isinstance(getattr(b, f.name), Tensor)}
    w.weights(b, NAME)
    changed = [name for name, tensor in kept.items() if not torch.equal(getattr(b, name), tensor)]
    return f"{', '.join(changed)} changed" if changed else None


@KIT.check("tokens, not padding", "take tokens from `batch.tokens`; input_ids has prompts and padding too")
def _padding(w: Weighting) -> str | None:
    """input_ids outside the responses have no effect"""
    b = batch(w)
    ids = torch.full_like(b.input_ids, 7)
    ids[b.seq_ids, b.columns] = b.tokens
    return None if torch.equal(w.weights(replace(b, input_ids=ids), NAME), w.weights(b, NAME)) else "it does"


@KIT.check("one answer", "guard means and deviations of a single number")
def _one(w: Weighting) -> str | None:
    """a batch of one answer of one token has finite weights"""
    b = batch(w)
    shortest = torch.tensor([int(b.lengths.argmin())])
    one = replace(b.select(shortest), group_ids=torch.zeros(1, dtype=torch.int64))
    found = w.weights(one, NAME)
    return None if found.shape == (1,) and found.isfinite().all() and (w.signed or (found >= 0).all()) else f"they are {shown(found)}"
