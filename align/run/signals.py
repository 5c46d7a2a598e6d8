"""Stops a run by Ctrl-C or by the signal of a cluster's scheduler, and defers both during work whose results they would lose."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; the end of a job on SLURM or Kubernetes; a closed terminal."""


class Terminated(KeyboardInterrupt):
    """A run that another process stopped, by SIGTERM or SIGHUP."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated in the block, so that a run keeps what it has. Outside the main thread it does nothing.

    A signal that the program ignores (as nohup does) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated(number)

    before = {number: signal.getsignal(number) for number in STOPS[1:]}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_stop() -> Iterator[None]:
    """Defers the first Ctrl-C or signal to stop to the end of the block, but not a second one. Outside the main thread it does nothing."""
    before: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number in STOPS if callable(handler := signal.getsignal(number))
    }
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    rang: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if rang:
            before[number](number, frame)
        rang.append(number)

    for number in before:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if rang:
        before[rang[0]](rang[0], None)
        raise KeyboardInterrupt  # a handler that returns must not continue the run
