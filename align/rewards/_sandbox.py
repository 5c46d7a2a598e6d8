"""Runs untrusted programs, one at a time, each isolated and limited. docs/sandbox.md has what stops which escape."""

from __future__ import annotations

import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from align.errors import UserError
from align.rewards._sandbox_filter import instructions
from align.rewards._sandbox_launcher import SETUP_FAILED

LAUNCHER = Path(__file__).with_name("_sandbox_launcher.py")
OUTPUT = 2**20
"""Bytes of output that are read; a program that writes more is stopped."""
ISOLATIONS = ("namespaces", "limits")
FILES = 64
"""Descriptors of a program."""
PROBE_SECONDS = 30.0


class SandboxFailed(Exception):
    """The isolation could not be set up: nothing was run."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    output: bytes
    """Of its stdout, at most OUTPUT bytes."""
    code: int | None
    """Its exit code, 128 + n by the signal n; None: it was stopped, by the time limit or for too much output."""


@dataclass(frozen=True)
class Sandbox:
    """The limits of a program. `start` refuses a machine that cannot keep them."""

    isolation: str
    memory: int
    """Bytes of address space of each process, and of files."""
    processes: int
    python: str = os.path.realpath(sys.executable)

    def start(self) -> Sandbox:
        """Run one program for a try. Raises UserError where this machine does not allow the isolation."""
        try:
            tried = self.run(["-c", "print(6 * 7)"], b"", PROBE_SECONDS)
            problem = None if tried.output == b"42\n" else f"a program that prints 42 wrote {tried.output!r}"
        except (SandboxFailed, ValueError) as error:
            problem = str(error)
        if problem is None:
            return self
        if self.isolation == "limits":
            raise UserError(
                f"reward code: this machine cannot run a program under limits ({problem}). Root becomes another user for it, "
                f"who must be able to read {self.python}: install Python outside of root's home, or start align as another user"
            )
        raise UserError(
            f"reward code: this machine does not allow the namespaces that isolate a program ({problem}). Run on a machine or in a "
            "container that allows user namespaces (Docker: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN), or accept "
            "programs with network and your files: isolation: limits (docs/sandbox.md)"
        )

    def run(self, arguments: Sequence[str], stdin: bytes, seconds: float) -> Ended:
        """Run Python with these arguments and the standard library alone. Raises SandboxFailed where it could not be isolated."""
        root = tempfile.mkdtemp(prefix="align-sandbox-")
        try:
            return self._run(root, arguments, stdin, seconds)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _run(self, root: str, arguments: Sequence[str], stdin: bytes, seconds: float) -> Ended:
        settings = {
            "namespaces": self.isolation == "namespaces",
            "root": root,
            "libraries": [os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)],
            "filter": instructions(os.uname().machine) if self.isolation == "namespaces" else [],
            "disk": self.memory,
            "number": os.getpid(),
            "limits": {
                "AS": self.memory,
                "CPU": math.ceil(seconds) + 1,
                "FSIZE": self.memory,
                "NPROC": self.processes,
                "NOFILE": FILES,
                "CORE": 0,
                "MEMLOCK": 0,
                "MSGQUEUE": 0,
            },
        }
        launched = subprocess.Popen(
            [self.python, "-I", "-S", str(LAUNCHER), json.dumps(settings), self.python, "-I", "-S", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd=root,
            start_new_session=True,
            bufsize=0,
        )
        try:
            return _watched(launched, stdin, time.monotonic() + seconds)
        finally:
            # The launcher's group has the first process of the namespace too, with which every other one ends.
            with suppress(ProcessLookupError):
                os.killpg(launched.pid, signal.SIGKILL)
            launched.wait()
            for pipe in (launched.stdin, launched.stdout, launched.stderr):
                if pipe is not None and not pipe.closed:
                    pipe.close()


def _watched(launched: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> Ended:
    """Feed and read a program until it ends, or until a limit."""
    given, output, errors = launched.stdin, launched.stdout, launched.stderr
    assert given is not None and output is not None and errors is not None  # all are pipes
    read = {output: b"", errors: b""}
    os.set_blocking(given.fileno(), False)
    with selectors.DefaultSelector() as ready:
        for pipe in read:
            ready.register(pipe, selectors.EVENT_READ)
        ready.register(given, selectors.EVENT_WRITE)
        reading = set(read)
        while reading:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or len(read[output]) > OUTPUT:
                return Ended(read[output][:OUTPUT], None)
            for key, _ in ready.select(remaining):
                if key.fileobj is given:
                    stdin = _fed(given, stdin)
                    if not stdin:
                        ready.unregister(given)
                        given.close()
                    continue
                pipe = output if key.fileobj is output else errors
                if chunk := os.read(key.fd, 2**16):
                    read[pipe] += chunk
                else:
                    ready.unregister(pipe)
                    reading.discard(pipe)
    try:
        code = launched.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return Ended(read[output][:OUTPUT], None)
    if code == SETUP_FAILED and read[errors]:
        raise SandboxFailed(read[errors].decode(errors="replace"))
    return Ended(read[output][:OUTPUT], code)


def _fed(pipe, data: bytes) -> bytes:
    """What is left to write; nothing, once the program has closed its end."""
    try:
        return data[os.write(pipe.fileno(), data[: 2**16]) :] if data else b""
    except BrokenPipeError:
        return b""
