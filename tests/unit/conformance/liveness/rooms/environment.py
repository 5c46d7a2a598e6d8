from __future__ import annotations

from typing import Any

from align.environments import start_environment
from align.types import Prompt
from liveness import Change

CHANGES = {
    ("calculator", "opens"): Change("[", {"closes": "]"}),
    ("calculator", "closes"): Change("]", {"opens": "[", "closes": "</calc>"}),
    ("calculator", "reply"): Change("={}"),
    ("calculator", "error"): Change("?"),
    ("calculator", "role"): Change("user"),
}
TEXTS = ("<calc>1+2</calc>", "<calc>one</calc>", "[1+2]", "<calc>4[1+2]", "9")


def probe(part: Any, **_) -> Any:
    running = start_environment(part)
    turns = [running.reset(Prompt(id="0", text="", token_ids=(1,)), 3).step(text) for text in TEXTS]
    return [part.role, turns]
