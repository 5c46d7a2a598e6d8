"""Texts of models, rows and exceptions on a terminal or in a log: characters that would control it are shown as escapes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories without a glyph: controls, marks that reorder text, lone surrogates, and other ends of line."""
JOINERS = "\u200c\u200d"
"""Parts of words in some scripts, and of emoji."""
LAYOUT = "\n\t"


def printable(text: str) -> str:
    r"""The text with every character that controls a terminal as its escape (`\x1b`), and ends of line and tabs as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in LAYOUT or c in JOINERS or unicodedata.category(c) not in HIDDEN else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


class SafeConsole(Console):
    """A console that prints every text as it is: square brackets are no markup, and characters that control a terminal are escaped."""

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
