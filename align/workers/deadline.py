"""A time limit that other code in the process cannot remove: a timer of the kernel with a signal of its own.

A reward may use SIGALRM and `setitimer`, as math_verify does. These are one per process, so a limit by them ends where a reward sets or
clears its own. POSIX timers are as many as one creates. The kernel delivers the signal to the main thread, without a thread that would
need the interpreter's lock. Like every signal, it interrupts Python code, system calls and C code that looks for signals (regular
expressions, large integers), but no C code that never does: for that, another process must end this one.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from align.errors import UserError

SIGNAL = signal.SIGRTMIN + 7
"""Real-time signals are for applications; glibc keeps the first two, and nothing known uses this one."""
CLOCK_MONOTONIC = 1
SIGEV_THREAD_ID = 4
NANO = 1_000_000_000
LEAST_AGAIN = 0.01
"""Seconds between two rings: with fewer than their handler takes, nothing else in the process would run."""


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux: 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_byte * 44),
    )


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (("interval", _Time), ("value", _Time))


def _library() -> ctypes.CDLL:
    """Where the timers are: in libc, or in librt before glibc 2.34."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc if hasattr(libc, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)


_libc = _library()


class DeadlinePassed(BaseException):
    """Raised in the main thread when the limit is over. It is not an Exception, so code under a limit does not catch it by accident."""


class Deadline:
    """The limit of the calls in one `deadlines` block. `passed` shows whether the code swallowed the exception."""

    def __init__(self, timer: ctypes.c_void_p):
        self._timer, self.passed = timer, False

    def start(self, seconds: float) -> None:
        """Start a limit, or restart it. Its signal is sent again each time that it has passed, until `stop`."""
        self.passed = False
        signal.signal(SIGNAL, self._ring)  # each time, because the code under the limit may set handlers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        self._set(seconds)

    def stop(self) -> None:
        self._set(0.0)

    def _ring(self, number: int, frame: Any) -> None:
        self.passed = True
        raise DeadlinePassed

    def _set(self, seconds: float) -> None:
        again = max(seconds, LEAST_AGAIN) if seconds else 0.0
        time = _Timer(*(_Time(*divmod(round(s * NANO), NANO)) for s in (again, seconds)))
        if _libc.timer_settime(self._timer, 0, ctypes.byref(time), None):
            raise OSError(ctypes.get_errno(), "timer_settime")


@contextmanager
def deadlines() -> Iterator[Deadline]:
    """Limits for code in the block. Raises UserError outside the main thread, because only the main thread runs handlers of signals."""
    if threading.current_thread() is not threading.main_thread():
        raise UserError(
            "rewards are time-limited by a signal, and signals reach only the main thread: score in the main thread, or "
            "with workers.backend: ray, whose reward actors have one of their own"
        )
    timer = ctypes.c_void_p()
    event = _Event(None, SIGNAL, SIGEV_THREAD_ID, threading.get_native_id())
    if _libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "timer_create")
    before = signal.getsignal(SIGNAL)
    try:
        yield Deadline(timer)
    finally:
        # A signal that is already on its way must not end the program, which is what the default handler does.
        signal.signal(SIGNAL, before if callable(before) else signal.SIG_IGN)
        _libc.timer_delete(timer)
