"""What a process says about itself: its memory, and where its threads are."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
STACKS = signal.SIGRTMIN + 8
"""The signal that makes a process write its stacks, also where it runs C code. `deadline.SIGNAL` is another."""
WRITE_SECONDS = 2.0
"""Seconds to wait for the stacks of the processes."""


def resident() -> float:
    """Resident memory of this process in bytes."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def offer_stacks(folder: str, role: str) -> None:
    """Write the stacks of this process into `folder/ROLE-PID` at the signal STACKS. Does nothing on another machine than the driver's."""
    if os.path.isdir(folder):
        # The file stays open as long as the process: after the signal there is no time to open it.
        faulthandler.register(STACKS, file=open(Path(folder) / f"{role}-{os.getpid()}", "w"), all_threads=True)  # noqa: SIM115


def write_stacks(offered: Path | None, file: Path) -> None:
    """Write to `file` the stacks of this process, and of those that called `offer_stacks` with the folder `offered`. Raises OSError."""
    asked = [] if offered is None else [path for path in sorted(offered.iterdir()) if _holds(path)]
    for path in asked:
        with suppress(ProcessLookupError):
            os.kill(_pid(path), STACKS)
    deadline = time.monotonic() + WRITE_SECONDS
    while time.monotonic() < deadline and not all(path.stat().st_size for path in asked):
        time.sleep(0.05)
    with file.open("w") as out:
        for path in asked:
            out.write(f"== {path.name}\n{path.read_text()}\n")
        out.write("== driver\n")
        out.flush()
        faulthandler.dump_traceback(out, all_threads=True)


def _pid(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _holds(path: Path) -> bool:
    """Whether the process still has its file open: the number may by now be that of another process, which the signal would end."""
    try:
        return any(os.path.realpath(fd) == os.path.realpath(path) for fd in Path(f"/proc/{_pid(path)}/fd").iterdir())
    except OSError:
        return False
