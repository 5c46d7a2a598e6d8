from __future__ import annotations

from typing import Any

import torch
from helpers.endpoint import Served

from align.types import Episode, Group, Prompt
from liveness import Change

REQUIRED = {
    "code": {"field": "hard_tests", "seconds": 30.0},
    "http": {"url": "{server}"},
    "judge": {"url": "{server}", "model": "m"},
    "format": {"tags": ["think", "answer"]},
    "learned": {"path": "{scorer}"},
    "length": {"maximum": 10, "unit": "characters"},
    "sum": {"rewards": {"exact": "countdown_exact", "long": "countdown_wordy"}},
}
FAILING = {"on_error": "fail", "wait": 0.001}
OF_ENDPOINTS = {
    "url": Change("{server}/other"),
    "key_variable": Change("HOME"),
    "timeout": Change(0.05, {"url": "{server}/slow", "attempts": 1, **FAILING}),
    "attempts": Change(1, {"url": "{server}/flaky", "attempts": 2, **FAILING}),
    "wait": Change(0.5, {"url": "{server}/flaky", "wait": 0.001}),
    "at_once": Change(1, {"url": "{server}/slow", "at_once": 4}),
    "on_error": Change("fail", {"url": "{server}/broken", "wait": 0.001}, stops=True),
}
CHANGES = {
    **{(name, key): change for name in ("http", "judge") for key, change in OF_ENDPOINTS.items()},
    ("http", "batch"): Change(2),
    ("http", "at_once"): Change(1, {"url": "{server}/slow", "at_once": 4, "batch": 1}),
    ("judge", "model"): Change("n"),
    ("judge", "template"): Change("{prompt} {response}"),
    ("judge", "system"): Change("Be strict."),
    ("judge", "pattern"): Change("([0-9])$"),
    ("judge", "lowest"): Change(-1.0),
    ("judge", "highest"): Change(20.0),
    ("exact_match", "extract"): Change("whole"),
    ("exact_match", "expected"): Change("last_number", {"field": "solution"}),
    ("exact_match", "field"): Change("solution", {"expected": "last_number"}),
    ("exact_match", "numbers"): Change(False),
    ("exact_match", "ignore_case"): Change(True, {"extract": "whole", "field": "word"}),
    ("format", "pattern"): Change("12.*", {"tags": [], "pattern": ".*"}),
    ("format", "tags"): Change(["think"]),
    ("format", "prefix"): Change("<think>"),
    ("code", "field"): Change("tests"),
    ("code", "partial"): Change(True),
    ("code", "isolation"): Change("limits", stops=True),
    ("code", "seconds"): Change(1e-6),
    ("code", "memory_mb"): Change(64),
    ("code", "processes"): Change(1),
    ("math", "extract"): Change("hash_marks"),
    ("math", "field"): Change("solution"),
    ("math", "seconds"): Change(1e-6),
    ("length", "maximum"): Change(3),
    ("length", "target"): Change(4, {"maximum": None, "target": 5, "buffer": 9}),
    ("length", "buffer"): Change(6),
    ("length", "unit"): Change("words"),
    ("learned", "path"): Change("{other_scorer}"),
    ("learned", "gold"): Change("countdown_wordy"),
    ("learned", "max_batch"): Change(3),
    ("sum", "rewards"): Change({"exact": "countdown_exact"}),
    ("sum", "weights"): Change({"long": 0.5}),
    ("learned", "dtype"): Change("bfloat16"),
}

ANSWERS = ("1+2+3+4", "10", "3", "3.0", "12=10", "yes", "1</think><answer>2</answer>", "answer = 3")
OF_A_PROCESS = {"code": ("1", "answer = 3"), "math": ("10", "3")}
"""A process for each answer, or for each that is beyond its time, takes a second: two answers show every key."""


def probe(part: Any, *, places: dict[str, str], **_) -> Any:
    fields = {"skill": "countdown", "numbers": [1, 2, 3, 4], "target": 10, "answer": "3", "solution": "so 10", "word": "Yes"}
    fields |= {
        "tests": ["assert answer"],
        # The program in the last answer passes the first, needs 100 MB for the second, and two processes for the third.
        "hard_tests": ["assert answer", "assert len(bytearray(10**8))", "import os\nassert os.fork() >= 0", "assert not answer"],
    }
    prompt = Prompt(id="0", text="", token_ids=(1,), fields=fields)
    answers, sizes = OF_A_PROCESS.get(part.recipe_name, ANSWERS), []
    reward = part.start()
    if part.recipe_name == "learned":
        reward._model.register_forward_pre_hook(lambda model, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    group = Group(prompt=prompt, episodes=tuple(Episode.single_turn(torch.ones(1).int().numpy(), a) for a in answers))
    server = Served.at(places["server"])
    server.forget()
    return [reward.score_groups([group]), sizes, server.seen()]
