"""The processes of a sweep: at most `jobs` runs of `align train` at once, each with a log. A failure stops only its own run."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from align.config.schema import Recipe
from align.errors import UserError
from align.run import checkpoints
from align.run.folder import check_writable
from align.sweep.plan import Cell, Plan, Run
from align.sweep.progress import View

POLL = 0.2
"""Seconds between polls of the processes."""
GRACE = 120.0
"""Seconds for a stopped run to save a checkpoint before it is killed."""


@contextmanager
def locked(out: Path) -> Iterator[IO]:
    """Lock the folder for this sweep. The runs inherit the lock, so a run that outlives a killed sweep keeps it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder with --out")
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another align sweep, or a run that one left behind, is at work in {out}; wait for it or stop it") from error
        yield lock


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Make SIGTERM and a closed terminal stop the runs as Ctrl-C does: the runs have their own sessions and would continue."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    kept = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL}
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A script's background job ignores Ctrl-C. Its runs must not inherit that, or they could only be killed.
        kept[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Child(NamedTuple):
    process: subprocess.Popen
    began: float
    log_from: int
    """Position in the log where this attempt starts."""


class Runner:
    """Starts runs when they may start, and reports ended runs."""

    def __init__(self, waiting: list[Run], recipes: dict[Cell, Recipe], plan: Plan, address: str | None, lock: IO):
        self._waiting, self._recipes, self._plan, self._address, self._lock = list(waiting), recipes, plan, address, lock
        self._children: dict[Run, Child] = {}

    def run(self, jobs: int, view: View, ended: Callable[[Run, str | None], None]) -> None:
        """Calls `ended` with each run that ends, and the last line of its error if it failed."""
        with stopped_by_signals():
            try:
                while self._waiting or self._children:
                    for run in [r for r, child in self._children.items() if child.process.poll() is not None]:
                        child = self._children.pop(run)
                        error = failure(run.log, child)
                        view.ended(run, error, time.monotonic() - child.began)
                        ended(run, error)
                    while len(self._children) < jobs and (run := next(filter(self._may_start, self._waiting), None)):
                        self._waiting.remove(run)
                        self._children[run] = self._start(run)
                        view.started(run)
                    view.tick()
                    time.sleep(POLL)
            except BaseException:
                view.note("stopping: the runs keep a checkpoint; Ctrl-C again kills them")
                self._stop()
                raise

    def _may_start(self, run: Run) -> bool:
        """False while another run may be training the same warm start, which would otherwise be trained twice."""
        warm_start = self._recipes[run.cell].model.recipe
        if warm_start is None:
            return True
        alike = [r for r in self._plan.runs if self._recipes[r.cell].model.recipe == warm_start]
        past_it = any(r.metrics.is_file() and r.metrics.stat().st_size for r in alike)
        return past_it or not any(r in self._children for r in alike)

    def _start(self, run: Run) -> Child:
        resumable = bool(checkpoints.steps(run.folder))
        if not resumable and (run.folder / "recipe.yaml").is_file():
            shutil.rmtree(run.folder)  # a run that left nothing to resume from
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "align.cli",
            "train",
            str(run.cell.recipe),
            *self._plan.changes(run),
            "--out",
            str(run.folder),
            *(["--address", self._address] if self._address else []),
            *(["--resume"] if resumable else []),
        ]
        with run.log.open("ab") as log:
            # With its own session, the run gets Ctrl-C once, through `_stop`, and not a second time during its checkpoint.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock.fileno(),),
            )
            return Child(process, time.monotonic(), log.tell())

    def _stop(self) -> None:
        processes = [child.process for child in self._children.values()]
        for process in processes:
            process.send_signal(signal.SIGINT)
        give_up = time.monotonic() + GRACE
        try:
            while any(p.poll() is None for p in processes) and time.monotonic() < give_up:
                time.sleep(POLL)
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def failure(log: Path, child: Child) -> str | None:
    """The last line that a failed attempt printed, and the signal if one ended it; None for a success."""
    code = child.process.returncode
    if code == 0:
        return None
    with log.open("rb") as file:
        file.seek(child.log_from)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else None
    return ": ".join([*([how] if how else []), *(lines[-1:])]) or f"ended with exit code {code}"
