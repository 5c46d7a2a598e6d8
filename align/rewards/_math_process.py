"""The reward `math` at work: it asks a process that compares mathematical answers, within a time limit."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from align.errors import UserError
from align.rewards import Reward
from align.types import Prompt

WORKER = Path(__file__).with_name("_math_worker.py")
START_SECONDS = 120.0
"""For the imports, which take a second on an idle machine."""


class MathReward(Reward):
    """`extract` finds the answer in a response; None: the other process looks for it."""

    def __init__(self, extract: Callable[[str], str | None] | None, field: str, process: MathProcess):
        self._extract, self._field, self._process = extract, field, process

    def score(self, prompt: Prompt, response: str) -> dict[str, float]:
        found = response if self._extract is None else self._extract(response)
        if not found:
            return {"total": 0.0, "answered": 0.0, "unjudged": 0.0}
        expected = _as_latex(str(prompt.fields.get(self._field, "")))
        judged = self._process.judge(expected, found if self._extract is None else _as_latex(found))
        if judged is None:
            return {"total": 0.0, "answered": 1.0, "unjudged": 1.0}
        if not judged["readable"]:
            raise ValueError(f"prompt {prompt.id}: its field {self._field} holds no mathematical answer")
        return {"total": float(judged["right"]), "answered": float(judged["answered"]), "unjudged": 0.0}


def _as_latex(answer: str) -> str:
    """An answer alone needs marks of LaTeX to be read as LaTeX; a solution has them."""
    return answer if "$" in answer or "\\boxed" in answer else f"\\boxed{{{answer}}}"


class MathProcess:
    """A process that is killed and replaced when a comparison takes too long. Raises UserError where math-verify is not installed."""

    def __init__(self, seconds: float):
        if find_spec("math_verify") is None:
            raise UserError("reward math needs the package math-verify: pip install 'align[math]', on every node that scores answers")
        self._seconds = seconds
        self._launch()
        self._wait_until_ready()

    def judge(self, expected: str, found: str) -> dict[str, bool] | None:
        """What `_math_worker.judge` returns; None after the time limit, or when the process died (of its memory limit, say).

        The caller's own time limit may interrupt it at any place: a process that was starting goes on, and the next call waits for it.
        """
        if self._process.poll() is not None:
            self._launch()
        self._wait_until_ready()
        finished = False
        try:
            reply = self._reply(json.dumps({"expected": expected, "found": found}), time.monotonic() + self._seconds)
            finished = reply is not None
            return reply
        finally:
            if not finished:  # a late reply would answer the next question
                _end(self._process)
                self._launch()

    def __del__(self):
        with suppress(AttributeError):  # it never started
            _end(self._process)

    def _launch(self) -> None:
        # -P: the folder of the script has files with names of the standard library, such as math.py.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self._ready, self._latest_start = False, time.monotonic() + START_SECONDS

    def _wait_until_ready(self) -> None:
        """Raises UserError for a process that ends, or is not ready in START_SECONDS."""
        if not self._ready and self._reply(None, self._latest_start) is None:
            _end(self._process)
            raise UserError(f"reward math: its process did not start; `{sys.executable} -P {WORKER}` shows why")
        self._ready = True

    def _reply(self, request: str | None, deadline: float) -> dict[str, bool] | None:
        """The next line, parsed; None if the process has ended or does not answer before `deadline`, of the monotonic clock."""
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None and taken is not None  # both are pipes
        left = b"" if request is None else request.encode() + b"\n"
        os.set_blocking(given.fileno(), False)
        line = b""
        with selectors.DefaultSelector() as ready:
            ready.register(taken, selectors.EVENT_READ)
            if left:
                ready.register(given, selectors.EVENT_WRITE)
            while not line.endswith(b"\n"):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                for key, _ in ready.select(remaining):
                    if key.fileobj is given:
                        try:
                            left = left[os.write(given.fileno(), left[: 2**16]) :]
                        except BrokenPipeError:
                            return None
                        if not left:
                            ready.unregister(given)
                    elif not (read := os.read(taken.fileno(), 2**16)):
                        return None
                    else:
                        line += read
        return json.loads(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
