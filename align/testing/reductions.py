"""Checks of a reduction: a weight above 0 for the tokens of each answer."""

from __future__ import annotations

from typing import Any

import torch

from align.reductions import Reduction
from align.testing.findings import Finding, Kit, shown
from align.testing.formulas import MEND, explained

KIT = Kit("reduction")
LENGTHS = torch.tensor([4, 1, 7, 2, 2])
MAX_TOKENS = 9


def check_reduction(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a reduction, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


@KIT.check("weights", "return a float32 weight above 0 for each answer, [S], from `lengths` (int64)")
def _weights(r: Reduction) -> str | None:
    """finite float32 weights above 0, one per answer; also for a single answer"""
    for lengths in (LENGTHS, LENGTHS[:1]):
        found = r.weights(lengths, MAX_TOKENS)
        if found.shape != lengths.shape or found.dtype != torch.float32:
            return f"{list(found.shape)} {found.dtype}, of {len(lengths)} answers"
        if not (found.isfinite().all() and (found > 0).all()):
            return f"they are {shown(found)}"
    return None


@KIT.check("order", "an answer's weight must not depend on its place in the batch")
def _order(r: Reduction) -> str | None:
    """each answer has the same weight in another order"""
    order = torch.tensor([3, 0, 4, 2, 1])
    one, two = r.weights(LENGTHS, MAX_TOKENS)[order], r.weights(LENGTHS[order], MAX_TOKENS)
    return None if torch.allclose(one, two) else f"{shown(one)} become {shown(two)}"


@KIT.check("size of the batch", "divide by the number of answers or of tokens: the step must not grow with the batch")
def _size(r: Reduction) -> str | None:
    """duplicating every answer halves the weights"""
    once, twice = r.weights(LENGTHS, MAX_TOKENS), r.weights(LENGTHS.repeat(2), MAX_TOKENS)
    return None if torch.allclose(once, 2 * twice[: len(once)]) else f"{shown(once)} become {shown(twice[: len(once)])}"


@KIT.check("leaves the lengths alone", "copy a tensor before writing into it")
def _untouched(r: Reduction) -> str | None:
    """the lengths are not written into"""
    lengths = LENGTHS.clone()
    r.weights(lengths, MAX_TOKENS)
    return None if torch.equal(lengths, LENGTHS) else f"they became {shown(lengths)}"


@KIT.check("explained", MEND)
def _explained(r: Reduction) -> str | None:
    """it states its formula and the meaning of the symbols"""
    return explained(r)
