r"""Dialogues that are one text, `\n\nHuman: ...\n\nAssistant: ...`, as in Anthropic's HH data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from align.tasks._fields import Turns

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
TURN = re.compile(f"({HUMAN}|{ASSISTANT})")


def is_dialogue(text: str) -> bool:
    return text.startswith(HUMAN) and ASSISTANT in text


def divided(dialogues: Sequence[str]) -> tuple[str, list[str]] | None:
    r"""The prompt that dialogues share, up to and with the last `\n\nAssistant:`, and the answer of each.

    None if they share none, or if one of them goes on after its answer.
    """
    together = list(zip(*dialogues, strict=False))  # as far as the shortest
    common = dialogues[0][: next((i for i, characters in enumerate(together) if len(set(characters)) > 1), len(together))]
    end = common.rfind(ASSISTANT) + len(ASSISTANT)
    if end < len(ASSISTANT):
        return None
    answers = [dialogue[end:] for dialogue in dialogues]
    return None if any(HUMAN in answer or ASSISTANT in answer for answer in answers) else (common[:end], answers)


def turns(prompt: str) -> Turns:
    """The turns of a prompt that ends where the assistant's answer begins."""
    _, *parts = TURN.split(prompt)
    spoken = [{"role": ROLES[mark], "content": text.strip()} for mark, text in zip(parts[::2], parts[1::2], strict=True)]
    return tuple(spoken[:-1])
