"""Ctrl-C at a time when it would lose what was computed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_sigint() -> Iterator[None]:
    """The first Ctrl-C waits until the block is through; a second one does not. Elsewhere than in the main thread nothing is changed."""
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
