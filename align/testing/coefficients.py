"""Checks of a coefficient: pure functions of a state of JSON values, with a finite, nonnegative beta after any measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from align.coefficients import Coefficient, State
from align.oracle.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit, shown
from align.types import EARLY, Columns

KIT = Kit("coefficient")
STEPS = (*range(50), 1000, 10**6)
MEASURED = (0.05, 3.0, -0.02, 1e4, 1e-6, 0.0, 0.3)
"""Possible measurements in nats; below 0 too, because k1's mean over a batch can be negative."""
ROLLOUTS = 64
PROMPTS = ("a", "b", "a", "c")
LARGEST = 3e38
"""About the largest float32."""
NAME = "checked"
"""The regularizer's name in the batch."""


def check_coefficient(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a coefficient, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


@cache
def batch() -> Columns:
    """A batch with log-probs: two groups of two answers, of which the first two are equal."""
    whole = context(setting(TREE, UPDATE), NAME, dtype=torch.float32)[0].batch
    chosen = whole.select(torch.tensor([0, 1, 2, 3]))
    logp = chosen.ref_logp[NAME]
    old_logp = logp + 0.3 * torch.cos(chosen.positions + 1)
    return replace(chosen, prompt_ids=PROMPTS, group_ids=torch.tensor([0, 0, 1, 1]), old_logp=old_logp).only(EARLY, KIT)


def _multiplied(c: Coefficient, state: State) -> list[float] | None:
    found = c.multipliers(batch(), NAME, state)
    return None if found is None else found.tolist()


def _wrong(beta: Any) -> bool:
    return isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= LARGEST


def _betas(c: Coefficient, state: State) -> list[float]:
    return [c.beta(step, state) for step in STEPS] + (_multiplied(c, state) or [])


def _after(c: Coefficient, state: State, divergence: float) -> State:
    """The state after a step that measured this divergence."""
    state = c.update_batch(c.update(state, divergence, ROLLOUTS), batch(), NAME)
    return state if _multiplied(c, state) is None else c.update_prompts(state, {"a": divergence, "b": divergence / 2})


@KIT.check("beta", "return a Python number; a negative coefficient drives the policy away from its reference")
def _beta(c: Coefficient) -> str | None:
    """beta is finite and at least 0 at every step"""
    state = c.initial_state()
    return next((f"it is {_number(c.beta(s, state))} at step {s}" for s in STEPS if _wrong(c.beta(s, state))), None)


@KIT.check("updates", "bound what a measurement can do: it may be 0, large, or slightly negative")
def _updates(c: Coefficient) -> str | None:
    """beta and the multipliers stay finite and at least 0 after any measurement"""
    state = c.initial_state()
    for divergence in MEASURED * 3:
        state = _after(c, state, divergence)
        wrong = next((b for b in _betas(c, state) if _wrong(b)), None)
        if wrong is not None:
            return f"it is {wrong!r} after a divergence of {divergence:g} nats"
    return None


@KIT.check("pure", "return a new state from `update`, and do not write into the arguments: other runs use the same part")
def _pure(c: Coefficient) -> str | None:
    """two calls with one state return the same, and do not change that state"""
    state = c.initial_state()
    for divergence in MEASURED:
        kept, expected = json.dumps(state), _betas(c, state)
        following, again = _after(c, state, divergence), _after(c, state, divergence)
        if json.dumps(state) != kept:
            return "the state it was given has changed"
        if following != again or _betas(c, state) != expected:
            return "the second answer differs"
        state = following
    return None


@KIT.check("multipliers", "return a detached float32 tensor, one number per sequence, in order")
def _multipliers(c: Coefficient) -> str | None:
    """multipliers are None, or float32 [S]"""
    found = c.multipliers(batch(), NAME, c.initial_state())
    if found is None:
        return None
    right = found.shape == (len(PROMPTS),) and found.dtype == torch.float32 and not found.requires_grad
    return None if right else f"{list(found.shape)} {found.dtype} for {len(PROMPTS)} sequences"


@KIT.check("what it needs", "set `needs = frozenset({...})` to what `multipliers` and `update_batch` read of the batch")
def _needs(c: Coefficient) -> str | None:
    """it reads no batch column that `needs` does not name"""
    bare = batch().only(c.needs, c)
    c.multipliers(bare, NAME, c.initial_state())
    c.update_batch(c.initial_state(), bare, NAME)
    return None


@KIT.check("state", "keep JSON values in the state: numbers, strings, lists, and mappings from strings; a checkpoint holds it as JSON")
def _state(c: Coefficient) -> str | None:
    """the state is a mapping that JSON preserves, at the start and after any measurement"""
    state = c.initial_state()
    for divergence in MEASURED:
        if not isinstance(state, dict) or json.loads(json.dumps(state)) != state:
            return f"it is {state!r}, and comes back from JSON as another"
        state = _after(c, state, divergence)
    return None


def _number(beta: Any) -> str:
    return shown(beta) if isinstance(beta, float) else repr(beta)
