"""Changes of a text of Python."""

from __future__ import annotations

import textwrap
from collections.abc import Callable


def swap(*texts: str) -> Callable[[str], str]:
    """Old text for new, in pairs."""

    def change(source: str) -> str:
        for old, new in zip(texts[::2], texts[1::2], strict=True):
            assert old in source, old
            source = source.replace(old, new)
        return source

    return change


def add(method: str) -> Callable[[str], str]:
    """A method more, or in place of one."""
    return lambda source: source + textwrap.indent(textwrap.dedent(method).strip("\n"), "    ") + "\n"
