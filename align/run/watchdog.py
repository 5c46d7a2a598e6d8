"""Notices a phase of a step that takes much longer than it took before, writes where every process is, and ends what hangs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

SLOW, HANGS = 3.0, 10.0
"""A line is printed, and a phase counts as hanging, after so many times the longest recent phase of its name."""
SLOW_SECONDS, HANGS_SECONDS = 10.0, 60.0
"""The least seconds of either limit: the times of short phases vary much."""
REMEMBERED = 20
"""How many recent phases of a name are compared."""
INTERVAL = 1.0
"""Seconds between two checks."""


class Watched(Protocol):
    """The workers, as far as the watchdog uses them."""

    def write_stacks(self, file: Path) -> None:
        """Write the stacks of all threads of the processes on this machine."""
        ...

    def end_hanging(self, reason: str) -> str:
        """End the process that hangs, and say in a clause what follows."""
        ...


@dataclass
class Phase:
    name: str
    began: float
    since: float
    """When its limit began: at `began`, or when a hanging process in it was last ended."""
    told: bool = False


class Watchdog:
    """A thread that compares the running phase with earlier ones of its name. The first of a name (compilation) has no limit."""

    def __init__(self, watched: Watched, folder: Path, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        """Args: folder: where files of stacks are written; made with the first file."""
        self._watched, self._folder, self._note, self._clock = watched, folder, note, clock
        self._past: dict[str, deque[float]] = {}
        self._phase: Phase | None = None
        self._lock, self._ended, self._files = threading.Lock(), threading.Event(), 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch the block. A phase inside another one replaces it, and its end restarts the limit of the outer one."""
        outer, now = self._phase, self._clock()
        with self._lock:
            self._phase = Phase(name, now, now)
        try:
            yield
            self._past.setdefault(name, deque(maxlen=REMEMBERED)).append(self._clock() - now)
        finally:
            with self._lock:
                self._phase = outer

    def check(self) -> None:
        """Compare the running phase once; the thread calls this."""
        with self._lock:
            phase = self._phase
            if phase is None or phase.name not in self._past:
                return
            usual, gone = max(self._past[phase.name]), self._clock() - phase.since
            if gone > max(HANGS * usual, HANGS_SECONDS):
                self._act(phase, usual)
            elif gone > max(SLOW * usual, SLOW_SECONDS) and not phase.told:
                phase.told = True
                limit = max(HANGS * usual, HANGS_SECONDS)
                self._note(f"`{phase.name}` has taken {gone:.0f} s, {usual:.2g} s at most before; at {limit:.0f} s it is taken to hang")

    def _act(self, phase: Phase, usual: float) -> None:
        now, self._files = self._clock(), self._files + 1
        file = self._folder / f"{phase.name}_{self._files}.txt"
        reason = f"`{phase.name}` hangs: it has taken {now - phase.began:.0f} s and took {usual:.2g} s at most before"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._watched.write_stacks(file)
            reason += f"; {file} has the stack of every thread"
        except OSError as error:
            reason += f"; the stacks could not be written ({error.strerror})"
        self._note(f"{reason}; {self._watched.end_hanging(reason)}")
        phase.since, phase.told = now, False

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.check()
