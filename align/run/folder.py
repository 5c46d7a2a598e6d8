"""Checks the folder of a run before it starts, and removes it after a failed start if it has nothing to keep."""

from __future__ import annotations

import shutil
from pathlib import Path

from align.errors import UserError


def check_folder(run_dir: Path, resume: bool) -> None:
    """Raises UserError for a new run in a folder that is not empty, and for a missing run to resume."""
    if not resume and run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(
            f"{run_dir} is not empty: choose another folder with --out, or continue that run with --resume (in Python run_dir "
            "and resume=True)"
        )
    if resume and not run_dir.is_dir():
        raise UserError(f"there is no run {run_dir} to resume: give its folder with --out, or leave out --resume")


def remove_empty_run(run_dir: Path) -> None:
    """Removes the folder of a run if the next start would recreate all its contents, so that it can use the folder.

    Those are recipe.yaml, the initial model, empty files (metrics.jsonl before its first line) and empty folders.
    """
    again = (run_dir / "recipe.yaml", run_dir / "initial")
    kept = (file for file in run_dir.rglob("*") if not any(file.is_relative_to(known) for known in again))
    if not any(file.is_file() and file.stat().st_size for file in kept):
        shutil.rmtree(run_dir)
