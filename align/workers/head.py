"""Notices that the head of the cluster has ended, and stops the run while its workers still answer.

Calls between a driver and its actors go on without a head for a minute. Then Ray ends the driver, with no word on the run.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from align.errors import RunStopped

LOST = "the cluster does not answer any more: its head or one of its nodes has ended"
PRIVATE_SECONDS, ATTACHED_SECONDS = 5.0, 25.0
"""Seconds without an answer after which the head counts as lost. A private cluster's head never comes back; another one's may."""
LAST_SECONDS = 15.0
"""Seconds in which the workers of a lost cluster may still save a checkpoint. With `ATTACHED_SECONDS` it is below Ray's minute."""
INTERVAL = 1.0


class Head:
    """A thread that tries the head's address. `check` raises once when it is lost, and again when `LAST_SECONDS` have passed."""

    def __init__(self, address: str, patience: float, clock: Callable[[], float] = time.monotonic):
        """Args: address: HOST:PORT; patience: in seconds."""
        host, _, port = address.rpartition(":")
        self._address, self._patience, self._clock = (host.strip("[]"), int(port)), patience, clock
        self._silent: float | None = None
        self._told: float | None = None
        self._ended = threading.Event()
        self.lost = False

    def start(self) -> Head:
        threading.Thread(target=self._watch, name="head", daemon=True).start()
        return self

    def close(self) -> None:
        self._ended.set()

    def check(self) -> None:
        """Raises RunStopped when the head is lost, and again after `LAST_SECONDS`."""
        if not self.lost:
            return
        if self._told is None:
            self._told = self._clock()
        elif self._clock() - self._told < LAST_SECONDS:
            return
        raise RunStopped(LOST)

    def probe(self) -> None:
        """Try the address once; the thread calls this."""
        with suppress(OSError):
            socket.create_connection(self._address, timeout=INTERVAL).close()
            self._silent = None
            return
        self._silent = self._clock() if self._silent is None else self._silent
        self.lost = self._clock() - self._silent >= self._patience

    def _watch(self) -> None:
        while not self.lost and not self._ended.wait(INTERVAL):
            self.probe()


_current: list[Head] = []
"""That of the cluster this process is attached to; Ray attaches to one at a time."""


def watch(address: str, patience: float) -> None:
    """Watch the head at HOST:PORT until `leave`."""
    leave()
    _current.append(Head(address, patience).start())


def leave() -> None:
    while _current:
        _current.pop().close()


def check() -> None:
    """Raises RunStopped if the head is lost: see `Head`."""
    for head in _current:
        head.check()


def lost() -> bool:
    return any(head.lost for head in _current)
