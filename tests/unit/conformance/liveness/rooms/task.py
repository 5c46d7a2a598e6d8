from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers.fakes import reasoning_gym
from helpers.own_tokenizers import CHATML, byte_tokenizer

from align.algorithms.bco import Bco
from align.experience.examples import Examples
from align.tasks.countdown import Countdown
from liveness import Change

TEMPLATE = CHATML.replace("assistant\n{% endif %}", "assistant\n{{ enable_thinking }}{% endif %}")
REQUIRED = {
    "gsm8k": {"path": "{words}"},
    "jsonl": {"path": "{data}"},
    "labelled": {"path": "{labels}"},
    "math": {"path": "{words}"},
    "mix": {"sources": {"one": {"name": "jsonl", "path": "{data}"}, "other": {"name": "jsonl", "path": "{held_out}"}}},
    "preferences": {"path": "{pairs}"},
    "reasoning_gym": {"generator": "sums", "size": 3},
}
MANY = {"path": "{many}"}
LIMITED = MANY | {"max_prompt_tokens": 4}
PLAIN = {"chat": False, "system": None}
MIXED = {"sources": {"one": {"name": "jsonl", **MANY}}}
CHANGES = {
    ("countdown", "size"): Change(9, {"size": 8}),
    ("countdown", "sort_share"): Change(0.5, {"size": 8, "demonstrations": True}),
    ("countdown", "calls"): Change(0.9, {"size": 8, "demonstrations": True}),
    ("countdown", "echo_chance"): Change(0.9, {"size": 8, "demonstrations": True}),
    ("countdown", "*"): Change(..., {"size": 8}),
    ("*", "split"): Change("test", {"path": "{splits}", "split": "train"}),
    ("*", "subset"): Change("two", {"path": "{subsets}", "subset": "one"}),
    ("*", "eval_split"): Change("test", {"path": "{splits}"}),
    ("*", "template"): Change({"enable_thinking": False}, {"path": "{chats}"}),
    ("labelled", "path"): Change("{long_labels}", {"too_long": "drop"}),
    ("labelled", "template"): Change({"enable_thinking": False}, {"path": "{labelled_chats}"}),
    ("labelled", "prompt"): Change("question"),
    ("labelled", "completion"): Change("reply"),
    ("labelled", "label"): Change("good"),
    ("labelled", "id"): Change("key"),
    ("labelled", "too_long"): Change("drop", {"path": "{long_labels}"}, stops=True),
    ("labelled", "held_out"): Change("countdown"),
    ("*", "system"): Change("Be brief.", {"path": "{chats}"}),
    ("*", "filter"): Change({"n": [1, 2]}, MANY),
    ("*", "shuffle_seed"): Change(1, MANY),
    ("*", "eval_share"): Change(0.5, MANY),
    ("*", "bad_rows"): Change("drop", {"path": "{bad}"}, stops=True),
    ("*", "max_prompt_tokens"): Change(4, MANY | {"too_long": "drop"}),
    ("*", "too_long"): Change("drop", LIMITED, stops=True),
    ("*", "eval_path"): Change("{more_words}"),
    ("*", "id"): Change("key"),
    **{
        (task, key): change
        for task in ("gsm8k", "math")
        for key, change in {
            "path": Change("{more_words}"),
            "prompt": Change("prompt"),
            "answer": Change("reply"),
            "extract": Change("boxed" if task == "gsm8k" else "hash_marks"),
            "chat": Change(False, {"system": None}),
            "subset": Change("two", {"path": "{subsets}", "subset": "one", "eval_split": "train[:1]"}),
            "eval_split": Change("train[1:]", {"path": "{splits}"}),
            "system": Change("Be brief."),
            "template": Change({"enable_thinking": False}),
            "max_prompt_tokens": Change(4, MANY | PLAIN | {"too_long": "drop"}),
            "too_long": Change("drop", LIMITED | PLAIN, stops=True),
        }.items()
    },
    ("preferences", "path"): Change("{held_out_pairs}"),
    ("preferences", "eval_path"): Change("{held_out_pairs}"),
    ("preferences", "prompt"): Change("question"),
    ("preferences", "chosen"): Change("best"),
    ("preferences", "rejected"): Change("worst"),
    ("preferences", "answers"): Change("all"),
    ("preferences", "too_long"): Change("drop", {"path": "{long}"}, stops=True),
    ("preferences", "held_out"): Change("countdown"),
    ("jsonl", "path"): Change("{held_out}"),
    ("jsonl", "extract"): Change("hash_marks", {"path": "{words}", "prompt": "question"}),
    ("mix", "sources"): Change({"one": {"name": "jsonl", "path": "{data}"}}),
    ("mix", "weights"): Change({"one": 2.0, "other": 1.0}),
    ("mix", "max_prompt_tokens"): Change(4, MIXED | {"too_long": "drop"}),
    ("mix", "too_long"): Change("drop", MIXED | {"max_prompt_tokens": 4}, stops=True),
    ("reasoning_gym", "generator"): Change("other_sums"),
    ("reasoning_gym", "options"): Change({"first": 7}),
    ("reasoning_gym", "chat"): Change(False, {"system": None}),
    ("reasoning_gym", "system"): Change("Be brief."),
    ("jsonl", "prompt"): Change("question"),
    ("jsonl", "answer"): Change("reply"),
}


def probe(part: Any, **_) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "reasoning_gym", reasoning_gym)
        examples = part.examples()
        tokenizer = part.tokenizer() or (byte_tokenizer(template=TEMPLATE) if examples[0].messages else Countdown().tokenizer())
        algorithm = Bco() if examples[0].labels else None
        dealt = Examples(part, tokenizer, 1, 0, 8 if examples[0].ranked else None, algorithm=algorithm)
        return [examples, part.notes(), part.rankings(), part.suites(2), dealt.dropped, [e.id for e in dealt.examples]]
