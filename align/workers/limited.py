"""Calls of user code, each within a time limit: it may raise, hang or change settings of the process without stopping the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from align.config import parts
from align.errors import RunStopped
from align.workers.deadline import Deadline, DeadlinePassed, deadlines


@contextmanager
def limited_calls() -> Iterator[Deadline]:
    """The deadline of the calls in the block. Alarms and settings of the process are afterwards as they were.

    Raises UserError outside the main thread, because only the main thread gets signals.
    """
    with _own_alarms(), _own_settings(), deadlines() as deadline:
        yield deadline


def limited(call: Callable[[], Any], part: Any, seconds: float, deadline: Deadline) -> tuple[Any, str | None]:
    """What a call of this part returned, or how it failed. Raises RunStopped where the call raises it."""
    try:
        # The limit may pass until the inner `finally` has finished, so the outer `try` catches its exception.
        try:
            deadline.start(seconds)
            answer = call()
        finally:
            deadline.stop()
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that the call left would ring in another one
        if deadline.passed:
            raise DeadlinePassed
        return answer, None
    except DeadlinePassed as error:
        return None, f"took longer than {seconds:g} s ({_place(error, part)})"
    except (KeyboardInterrupt, RunStopped):
        raise
    except BaseException as error:  # libraries raise others than Exception: a panic of Rust code, a cancelled task
        return None, failure_text(error, part)


def failure_text(error: BaseException, part: Any) -> str:
    """The exception in one line, with its place in the part's own code."""
    return f"{type(error).__name__}: {_one_line(str(error))} ({_place(error, part)})"


def _one_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "(no message)"
    return line if len(line) <= 200 else line[:200] + "..."


def _place(error: BaseException, part: Any) -> str:
    """`file:line` of the error or timeout: the deepest frame in the part's own file, else the deepest of all."""
    own = getattr(sys.modules.get(type(part).__module__), "__file__", None)
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = next((f for f in reversed(frames) if f[0] == own), frames[-1])
    return parts.location(type(part)) if os.path.dirname(file) == os.path.dirname(__file__) else f"{file}:{line}"


@contextmanager
def _own_alarms() -> Iterator[None]:
    """Lets parts use SIGALRM in the block, and then restores the host program's own alarm with its remaining time."""
    if threading.current_thread() is not threading.main_thread():
        yield  # `deadlines` refuses it
        return
    began = time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - began), 1e-3), interval)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Restores what a part may set for the whole process: working directory, torch's default type, gradients and random state. A run
    writes to a relative folder, and the learner may be in this process."""
    folder, dtype, gradients, threads, drawn = (
        os.getcwd(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(drawn)
