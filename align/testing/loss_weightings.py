"""Checks of a loss weighting: detached numbers >= 0 that do not depend on the order of the examples, and a state of JSON values."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.loss_weightings import LossWeighting
from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit, shown
from align.testing.formulas import MEND, explained
from align.types import Columns

KIT = Kit("loss_weighting")
NAME = "unused"


def check_loss_weighting(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a loss weighting, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def batch(w: LossWeighting) -> Columns:
    """Forty answers of one to three tokens in float32, two of each example, with only the columns that `w` needs."""
    ctx, _ = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)
    examples = tuple(str(i // 2) for i in range(len(ctx.batch.lengths)))
    return replace(ctx.batch, loss_weights=None, penalty_weights={}, prompt_ids=examples).only(w.needs, w)


def losses() -> Tensor:
    """Of forty examples, some equal, some below 0."""
    return torch.sin(torch.arange(40.0) // 2) + torch.arange(40.0) / 20


def _wrong(found: Tensor | None, count: int, of: str) -> str | None:
    if found is None:
        return None
    if found.shape != (count,) or found.dtype != torch.float32 or found.requires_grad:
        return f"{list(found.shape)} {found.dtype}{' with a gradient' if found.requires_grad else ''}, for {count} {of}"
    wrong = ~(found >= 0) | ~found.isfinite()
    return f"one is {shown(found[wrong][0])}" if wrong.any() else None


@KIT.check("weights", "return detached float32 weights >= 0: [S] from `of_losses`, [T] from `of_batch`")
def _weights(w: LossWeighting) -> str | None:
    """finite detached float32 numbers, at least 0, one for each example or token"""
    b = batch(w)
    return (
        _wrong(w.of_losses(losses()), 40, "examples")
        or _wrong(w.of_losses(torch.zeros(1)), 1, "example")
        or _wrong(w.of_batch(b, w.initial_state()), len(b.seq_ids), "tokens")
    )


@KIT.check("weighs", "define `of_losses`, or `of_batch`, or both")
def _weighs(w: LossWeighting) -> str | None:
    """it weighs by the losses or by the batch"""
    nothing = not w.reads_losses and type(w).of_batch is LossWeighting.of_batch
    return "it defines neither, so every weight is 1" if nothing else None


@KIT.check("what it needs", "set `needs = frozenset({...})` to what `of_batch` reads of the batch")
def _needs(w: LossWeighting) -> str | None:
    """it reads no batch column that `needs` does not name"""
    w.of_batch(batch(w), w.initial_state())
    return None


@KIT.check("order", "compute a weight from the example's own loss and from statistics of all, never from its place")
def _order(w: LossWeighting) -> str | None:
    """the examples in another order have the same weights"""
    found, turned = w.of_losses(losses()), w.of_losses(losses().flip(0))
    if found is None or turned is None:
        return None
    return None if torch.allclose(found, turned.flip(0), atol=1e-5) else "they have others"


@KIT.check("state", "return a new dictionary of JSON values from `update`, and leave the one it got as it is")
def _state(w: LossWeighting) -> str | None:
    """the state is JSON values, and an update makes a new one"""
    before = w.initial_state()
    kept = copy.deepcopy(dict(before))
    after = w.update(before, {"0": 0.5, "1": 2.0})
    if dict(before) != kept:
        return "an update writes into the state before it"
    return None if json.loads(json.dumps(dict(after))) == dict(after) else "the state does not survive JSON"


@KIT.check("explained", MEND)
def _explained(w: LossWeighting) -> str | None:
    """it states its weights and the meaning of the symbols"""
    return explained(w)
