"""Code from outside of align that a recipe names: what a command says of it, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from align.errors import RecipeError

_watcher: ContextVar[Callable[[str, str], None] | None] = ContextVar("_watcher", default=None)


def about_to_load(name: str, where: str) -> None:
    """To be called before code from outside of align is imported: `name` at the key `where`. Raises RecipeError if it is refused."""
    if (watcher := _watcher.get()) is not None:
        watcher(name, where)


@contextmanager
def announce_loading(allowed: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, `say` gets one line before each plugin that a recipe loads. Not allowed: RecipeError at its key, instead."""
    said = set()

    def watcher(name: str, where: str) -> None:
        if not allowed:
            raise RecipeError(
                where, f"names code from outside of align, {name}, and --no-plugins refuses it: read it, and leave out the option"
            )
        if name not in said:
            said.add(name)
            say(f"{where}: loads code from outside of align: {name}")

    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
