"""Checks of a task: reproducible examples, separate held-out problems, and finite metrics for any answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from align.tasks import Example, Task
from align.testing.findings import Finding, Kit, again
from align.types import Episode, Group, Prompt

KIT = Kit("task")
PROBLEMS = 8


def check_task(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a task, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def groups(examples: Sequence[Example]) -> list[Group]:
    """Two answers to each: the demonstrated one, if there is one, and a wrong one."""

    def episode(text: str) -> Episode:
        ids = np.arange(1, len(text) + 2, dtype=np.int32)
        return Episode.single_turn(ids, text, np.full(len(ids), -1.0, dtype=np.float32))

    return [
        Group(prompt=Prompt(id=e.id, text=e.text, token_ids=(1,), fields=e.fields), episodes=(episode(e.answer or "1"), episode("")))
        for e in examples
    ]


@KIT.check("examples", "give every example a text and a unique id: groups and seeds are derived from the id")
def _examples(t: Task) -> str | None:
    """at least one example; unique ids, texts that are not blank, fields of JSON values, answers that are texts or None, and no ranked
    answers or several different ones"""
    found = t.examples()
    if not found:
        return "there is none"
    if len({e.id for e in found}) < len(found):
        return "two have one id"
    return next((f"{e.id}: {problem}" for e in found if (problem := _problem(e))), None)


def _problem(e: Example) -> str | None:
    if not isinstance(e.text, str) or not e.text.strip():
        return "its text is blank"
    if not isinstance(e.answer, str | None):
        return f"its answer is {e.answer!r}"
    if e.labels and (len(e.labels) != len(e.ranked) or not all(isinstance(label, bool) for label in e.labels)):
        return f"its labels are {e.labels!r}"
    if (len(e.ranked) == 1 and not e.labels) or len(set(e.ranked)) < len(e.ranked) or not all(isinstance(r, str) and r for r in e.ranked):
        return f"its ranked answers are {e.ranked!r}"
    return None if json.loads(json.dumps(dict(e.fields))) == dict(e.fields) else "its fields come back otherwise from JSON"


@KIT.check("repeats", "draw from the task's own generator, seeded by a key; do not use `random` itself, `hash`, or the order of a set")
def _repeats(t: Task) -> str | None:
    """the same keys give the same examples, held-out problems and rankings, in the same order"""
    copy = again(t)
    if list(copy.rankings()) != list(t.rankings()):
        return "the held-out rankings differ"
    if list(copy.examples()) != list(t.examples()):
        return "the examples differ"
    return None if _suites(copy) == _suites(t) == _suites(t) else "the held-out problems differ"


def _suites(t: Task) -> Mapping[str, list[Example]]:
    return {name: list(examples) for name, examples in t.suites(PROBLEMS).items()}


@KIT.check("suites", "give each suite its first `problems` problems, with unique ids")
def _bounded(t: Task) -> str | None:
    """suites have at least one problem and at most `problems`, with valid ids and texts"""
    for name, examples in _suites(t).items():
        if not 0 < len(examples) <= PROBLEMS or len({e.id for e in examples}) < len(examples):
            return f"{name} has {len(examples)} of {PROBLEMS} problems, {len({e.id for e in examples})} ids"
        problem = next((f"{name}, {e.id}: {p}" for e in examples if (p := _problem(e))), None)
        if problem:
            return problem
    return None


@KIT.check("held out", "keep the problems of a suite out of the training examples, for every seed")
def _held_out(t: Task) -> str | None:
    """no problem of a suite and no held-out ranking is a training example; rankings have at least two answers"""
    trained, ranked = {e.text for e in t.examples()}, {(e.text, *e.ranked) for e in t.examples()}
    for e in t.rankings():
        problem = _problem(e) or ("it has no ranked answers" if not e.ranked else None)
        if problem or (e.text, *e.ranked) in ranked:
            return f"the held-out ranking {e.id}: {problem or 'it is an example'}"
    return next(
        (f"{name} has {e.text!r}, which is an example" for name, examples in _suites(t).items() for e in examples if e.text in trained),
        None,
    )


@KIT.check("judge", "return a dict of finite floats by metric, for correct, wrong and empty answers")
def _judge(t: Task) -> str | None:
    """metrics of any answers are finite numbers, the same every time"""
    for name, examples in _suites(t).items():
        answered = groups(examples)
        found = t.judge(name, answered)
        wrong = next((k for k, v in found.items() if not isinstance(v, int | float) or not math.isfinite(v)), None)
        if wrong is not None:
            return f"{name}/{wrong} is {found[wrong]!r}"
        if t.judge(name, answered) != found:
            return f"{name} is judged otherwise the second time"
    return None


@KIT.check("tokenizer", "cover every character of the task, and name a pad and an end token; or return None")
def _tokenizer(t: Task) -> str | None:
    """the task's own tokenizer restores texts and answers after encoding"""
    tokenizer = t.tokenizer()
    if tokenizer is None:
        return None
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        return "it has no end token or no pad token"
    texts = [text for e in list(t.examples())[:50] for text in (e.text, e.answer) if text]
    back = (tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in texts)
    return next((f"{text!r} comes back as {found!r}" for text, found in zip(texts, back, strict=True) if text != found), None)
