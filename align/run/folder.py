"""Checks the folder of a run before it starts, and removes it after a failed start if it has nothing to keep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align.errors import UserError
from align.run.lock import LOCK

HISTORY, PLUGINS = "history.jsonl", "plugins"
EARLIER = "earlier_"
"""Prefix of the folders to which the files of runs without a checkpoint are moved."""


def check_folder(run_dir: Path, resume: bool) -> None:
    """Raises UserError for a new run in a folder that is not empty, a missing run to resume, and a folder that cannot be written."""
    with _writable(run_dir):
        _check_contents(run_dir, resume)
        _probe_writing(run_dir)


def check_writable(folder: Path) -> None:
    """Raises UserError for a folder in which no file can be written, or that cannot be made."""
    with _writable(folder):
        _probe_writing(folder)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--out {folder}: no file can be written there: {reason}; give another folder (in Python run_dir)") from error


def _check_contents(run_dir: Path, resume: bool) -> None:
    if not resume and run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file: choose a folder with --out (in Python run_dir)")
    if not resume and run_dir.exists() and not restartable(run_dir):
        raise UserError(
            f"{run_dir} is not empty: choose another folder with --out, or continue that run with --resume (in Python run_dir "
            "and resume=True)"
        )
    if resume and not run_dir.is_dir():
        raise UserError(f"there is no run {run_dir} to resume: give its folder with --out, or leave out --resume")


def restartable(run_dir: Path) -> bool:
    """Whether a new run may start in a folder: it is empty, or holds a run that ended before its first checkpoint."""
    names = {path.name for path in run_dir.iterdir() if not _belongs_to_folder(path)}
    began = "recipe.yaml" in names and not names & {"summary.json", "model"}
    return not names or (began and not any(run_dir.glob("checkpoints/step_*")) and not any(run_dir.glob("checkpoints/damaged_*")))


def _belongs_to_folder(path: Path) -> bool:
    """Whether a file or folder belongs to the folder, and not to one of the runs that started in it."""
    return path.name in (LOCK, HISTORY, PLUGINS) or path.name.startswith(EARLIER)


def set_aside(run_dir: Path) -> list[str]:
    """Move the files of a run that ended before its first checkpoint into a folder `earlier_N`. Returns one line that says so, or none."""
    left = [path for path in run_dir.iterdir() if not _belongs_to_folder(path)]
    if not left:
        return []
    number = 1 + sum(path.name.startswith(EARLIER) for path in run_dir.iterdir())
    aside = run_dir / f"{EARLIER}{number}"
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    return [f"a run in {run_dir} ended before its first checkpoint; what it left is in {aside.name}, and this run starts anew"]


def _probe_writing(run_dir: Path) -> None:
    """Write a file into the folder and delete it again, with the folders that it needed. Raises OSError."""
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir) as file:
            file.write(b"1")
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def remove_empty_run(run_dir: Path) -> None:
    """Removes the folder of a run if the next start would recreate all its contents, so that it can use the folder.

    Those are recipe.yaml, the initial model, the history, empty files (metrics.jsonl before its first line) and empty folders.
    """
    again = [run_dir / name for name in ("recipe.yaml", "initial", LOCK, HISTORY, PLUGINS)]
    kept = (file for file in run_dir.rglob("*") if not any(file.is_relative_to(known) for known in again))
    if not any(file.is_file() and file.stat().st_size for file in kept):
        shutil.rmtree(run_dir)
