from __future__ import annotations

from typing import Any

from helpers.own_tokenizers import CHATML, byte_tokenizer

from align.algorithms.bco import Bco
from align.experience.examples import Examples
from align.tasks.countdown import Countdown
from liveness import Change

TEMPLATE = CHATML.replace("assistant\n{% endif %}", "assistant\n{{ enable_thinking }}{% endif %}")
REQUIRED = {"jsonl": {"path": "{data}"}, "labelled": {"path": "{labels}"}, "preferences": {"path": "{pairs}"}}
CHANGES = {
    ("countdown", "size"): Change(9, {"size": 8}),
    ("countdown", "sort_share"): Change(0.5, {"size": 8, "demonstrations": True}),
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
    ("preferences", "path"): Change("{held_out_pairs}"),
    ("preferences", "eval_path"): Change("{held_out_pairs}"),
    ("preferences", "prompt"): Change("question"),
    ("preferences", "chosen"): Change("best"),
    ("preferences", "rejected"): Change("worst"),
    ("preferences", "answers"): Change("all"),
    ("preferences", "id"): Change("key"),
    ("preferences", "too_long"): Change("drop", {"path": "{long}"}, stops=True),
    ("preferences", "held_out"): Change("countdown"),
    ("jsonl", "path"): Change("{held_out}"),
    ("jsonl", "eval_path"): Change("{held_out}"),
    ("jsonl", "prompt"): Change("question"),
    ("jsonl", "answer"): Change("reply"),
    ("jsonl", "id"): Change("key"),
}


def probe(part: Any, **_) -> Any:
    ranked = part.examples()[0].ranked
    tokenizer = byte_tokenizer(template=TEMPLATE) if part.examples()[0].messages else Countdown().tokenizer()
    algorithm = Bco() if part.examples()[0].labels else None
    dealt = [Examples(part, part.tokenizer() or tokenizer, 1, 0, 8, algorithm).dropped] if ranked else []
    return [part.examples(), part.rankings(), part.suites(2), dealt]
