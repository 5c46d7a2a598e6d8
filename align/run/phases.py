"""The phases of a run before and around its training steps: shown on a terminal as each starts, and their seconds for the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def show(text: str) -> None:
    """Print one line to stderr if that is a terminal: in a file, stderr holds errors alone."""
    if _console.is_terminal:
        _console.print(text, style="dim", markup=False)


class Phases:
    """Seconds of each phase, and of everything since the command started."""

    def __init__(self, began: float | None = None, show: Callable[[str], None] = show, clock: Callable[[], float] = time.monotonic):
        """Args: began: `time.monotonic()` at which the command started, before its imports; None: it starts here."""
        self._began, self._show, self._clock = clock() if began is None else began, show, clock
        self.seconds: dict[str, float] = {} if began is None else {"imports": self.wall()}

    def wall(self) -> float:
        """Seconds since the command started."""
        return self._clock() - self._began

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block as this phase. Phases do not overlap."""
        self._show(f"{self.wall():6.1f} s  {name}")
        began = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - began
