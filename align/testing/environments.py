"""Checks of an environment: turns for any text that a model may write, without delay, and the same ones from the same seed."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from align.environments import Environment, RunningEnvironment, Turn, start_environment
from align.testing.findings import Finding, Kit
from align.testing.rewards import CANARY, HOSTILE, PROMPTS
from align.types import Prompt
from align.workers.limited import limited, limited_calls

KIT = Kit("environment")
TURNS = 3
SECONDS = 1.0
CALLS = ("<calc>9+7</calc>", "9+7:")
"""Texts that a calculator answers."""


def check_environment(part: Any, /, prompts: Sequence[Prompt] = PROMPTS, **keys: Any) -> list[Finding]:
    """Run every check of an environment, given by name, as a class with keys, or built. `prompts`: with the fields that it reads."""
    return KIT.run(part, keys, prompts=prompts)


def episode(environment: Environment, prompt: Prompt, text: str, seed: int = 7) -> tuple[list[Any], str | None]:
    """What it says to a policy that always writes this text, up to `TURNS` turns, and how it failed."""
    turns: list[Any] = []
    with limited_calls() as deadline:
        running, problem = limited(lambda: environment.reset(prompt, seed), environment, SECONDS, deadline)
        while problem is None and len(turns) < TURNS:
            turn, problem = limited(lambda: running.step(text), environment, SECONDS, deadline)
            turns += [turn] if problem is None else []
            if not isinstance(turn, Turn) or turn.done:
                break
        if problem is None and isinstance(running, RunningEnvironment):
            _, problem = limited(running.close, environment, SECONDS, deadline)
    return turns, problem


def played(environment: Environment, prompts: Sequence[Prompt]) -> Iterator[tuple[str, list[Any], str | None]]:
    """The episode of every prompt and text, one after the other: a check may stop at the first whose call takes too long."""
    return ((text, *episode(environment, prompt, text)) for prompt, text in product(prompts, (*CALLS, *HOSTILE)))


@KIT.check("turns", "return an object of a class derived from RunningEnvironment from reset, and align.environments.Turn from step")
def _turns(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """`reset` returns a RunningEnvironment, whose `step` returns a Turn for any text"""
    with limited_calls() as deadline:
        made, problem = limited(lambda: start_environment(e).reset(prompts[0], 7), e, SECONDS, deadline)
    if problem is not None:
        return f"reset: {problem}"
    if not isinstance(made, RunningEnvironment):
        return f"reset returned {made!r:.60}"
    for text, turns, problem in played(start_environment(e), prompts):
        if problem is not None:
            return None if "took longer" in problem else f"{text[:40]!r}: {problem}"  # `soon` says it
        wrong = next((turn for turn in turns if not isinstance(turn, Turn)), None)
        if wrong is not None or (not turns and problem is None):
            return f"{text[:40]!r}: step returned {wrong!r:.60}"
    return None


@KIT.check("soon", "bound the work by the length of the text, and give up on texts that are too long")
def _soon(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """no call takes a second"""
    failures = ((text, problem) for text, _, problem in played(start_environment(e), prompts) if problem is not None)
    return next((f"{text[:40]!r}: {problem}" for text, problem in failures if "took longer" in problem), None)


@KIT.check("repeats", "draw all randomness of an episode from the seed of reset, and keep no state beyond the episode")
def _repeats(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """the same prompt, seed and texts always have the same turns"""
    running = start_environment(e)
    one, two = ([turns for _, turns, _ in played(running, prompts)] for _ in range(2))
    return None if one == two else "they change"


@KIT.check("its own episode", "keep the state of an episode in the object that reset returns")
def _own(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """an episode has the same turns when others go on beside it"""
    running = start_environment(e)
    for text in CALLS:
        alone, problem = episode(running, prompts[0], text)
        if problem is not None:
            return None  # the other checks say it
        beside, among = running.reset(prompts[-1], 8), running.reset(prompts[0], 7)
        for i, turn in enumerate(alone):
            beside.step(CALLS[i % len(CALLS)])
            if among.step(text) != turn:
                return f"{text!r}: turn {i + 1} differs"
    return None


@KIT.check("runs no text", "parse what the policy writes; never eval, exec, import or unpickle it")
def _data(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """Python code in a turn is not executed"""
    os.environ.pop(CANARY, None)
    deque(played(start_environment(e), prompts), maxlen=0)
    return "it was" if os.environ.pop(CANARY, None) else None


@KIT.check("leaves the prompt alone", "copy a field before changing it: all episodes of a group share it")
def _prompt(e: Environment, prompts: Sequence[Prompt]) -> str | None:
    """the fields of the prompt do not change"""
    kept = copy.deepcopy([dict(p.fields) for p in prompts])
    deque(played(start_environment(e), prompts), maxlen=0)
    return next((f"those of {p.id} have changed" for p, fields in zip(prompts, kept, strict=True) if dict(p.fields) != fields), None)
