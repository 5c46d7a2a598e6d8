"""What a coefficient must be: finite and not negative, whatever it is told, with its whole state in `state_dict`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from align.coefficients import Coefficient
from align.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit, again
from align.types import TokenBatch

KIT = Kit("coefficient")
STEPS = (*range(50), 1000, 10**6)
MEASURED = (0.05, 3.0, -0.02, 1e4, 1e-6, 0.0, 0.3)
"""Nats: what it may be told, below 0 too, since k1's mean over a batch can be."""
ROLLOUTS = 64
PROMPTS = ("a", "b", "a", "c")
NAME = "checked"
"""The regularizer's entries in the batch."""


def check_coefficient(part: Any, /, **keys: Any) -> list[Finding]:
    """Every check of a coefficient: its name, its class with keys, or a built one."""
    return KIT.run(part, keys)


@cache
def batch() -> TokenBatch:
    """A scored one: two groups of two answers, the first two of which are alike."""
    whole = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)[0].batch
    chosen = whole.select(torch.tensor([0, 1, 2, 3]))
    logp = chosen.ref_logp[NAME]
    return replace(chosen, prompt_ids=PROMPTS, group_ids=torch.tensor([0, 0, 1, 1]), old_logp=logp + 0.3 * torch.cos(chosen.positions + 1))


def _multiplied(c: Coefficient) -> list[float] | None:
    found = c.multipliers(batch(), NAME)
    return None if found is None else found.tolist()


def _wrong(beta: Any) -> bool:
    return isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf


def _betas(c: Coefficient) -> list[float]:
    return [c.beta(step) for step in STEPS] + (_multiplied(c) or [])


def _told(c: Coefficient, divergence: float) -> None:
    c.update(divergence, ROLLOUTS)
    if _multiplied(c) is not None:
        c.update_prompts({"a": divergence, "b": divergence / 2})


@KIT.check("beta", "return a Python number; a negative coefficient drives the policy away from its reference")
def _beta(c: Coefficient) -> str | None:
    """beta is finite and at least 0 at every step"""
    return next((f"it is {c.beta(s)!r} at step {s}" for s in STEPS if _wrong(c.beta(s))), None)


@KIT.check("updates", "bound what a measurement can do: it may be 0, large, or slightly negative")
def _updates(c: Coefficient) -> str | None:
    """beta and the multipliers stay finite and at least 0 after any measurement"""
    fresh = again(c)
    for divergence in MEASURED * 3:
        _told(fresh, divergence)
        wrong = next((b for b in _betas(fresh) if _wrong(b)), None)
        if wrong is not None:
            return f"it is {wrong!r} after a divergence of {divergence:g} nats"
    return None


@KIT.check("asking changes nothing", "move what changes in `beta` or `multipliers` to `update`: they are asked more often than once a step")
def _pure(c: Coefficient) -> str | None:
    """asked twice, it answers the same, whatever it was asked between"""
    fresh = again(c)
    return None if _betas(fresh) == _betas(fresh) else "the second answer differs"


@KIT.check("multipliers", "give a float32 tensor, one number a sequence in their order, detached")
def _multipliers(c: Coefficient) -> str | None:
    """multipliers are None, or float32 [S]"""
    found = c.multipliers(batch(), NAME)
    if found is None:
        return None
    right = found.shape == (len(PROMPTS),) and found.dtype == torch.float32 and not found.requires_grad
    return None if right else f"{list(found.shape)} {found.dtype} for {len(PROMPTS)} sequences"


@KIT.check("state", "keep in state_dict, as JSON values, everything that update changes, and take all of it back in load_state_dict")
def _state(c: Coefficient) -> str | None:
    """a copy that loads its state, by way of JSON, goes on as it does"""
    fresh = again(c)
    for divergence in MEASURED:
        _told(fresh, divergence)
    copy = again(c)
    copy.load_state_dict(json.loads(json.dumps(fresh.state_dict())))
    for divergence in (0.2, 1.0):
        if _betas(copy) != _betas(fresh):
            return "after a resume beta is another"
        _told(fresh, divergence)
        _told(copy, divergence)
    return None if _betas(copy) == _betas(fresh) else "after a resume and an update beta is another"


@KIT.check("copies are apart", "make what changes in __post_init__, and never in the class body: every instance would share it")
def _apart(c: Coefficient) -> str | None:
    """what one instance is told changes no other"""
    one, other = again(c), again(c)
    before = _betas(other)
    for divergence in MEASURED:
        _told(one, divergence)
    return None if _betas(other) == before else "it does"
