"""A lock on the folder of a run, so that two runs do not write into one."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a folder that exists. The system gives it back when the process ends, however it ends.

    Raises: UserError if another process, or another run of this one, has it. On a file system without locks nothing is locked.
    """
    with (run_dir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "which is starting"
            raise UserError(
                f"{run_dir}: another run is at work in this folder ({holder}): wait for it or stop it, or choose another folder with --out "
                "(in Python run_dir)"
            ) from error
        except OSError:
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
