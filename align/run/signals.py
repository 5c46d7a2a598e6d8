"""Defers Ctrl-C during work whose results it would lose."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defers the first Ctrl-C to the end of the block, but not a second one. Outside the main thread it does nothing."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    rang = []

    def wait(signum, frame):
        if rang:
            before(signum, frame)
        rang.append(True)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if rang:
        raise KeyboardInterrupt
