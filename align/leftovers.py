"""What a start that failed leaves in its folder, and whether it is worth keeping."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove_failed_start(run_dir: Path) -> None:
    """Removes the folder of a run if it holds only what the next start makes again, so that the next may use it.

    That is recipe.yaml, the initial model, empty files (metrics.jsonl before its first line) and empty folders.
    """
    again = (run_dir / "recipe.yaml", run_dir / "initial")
    kept = (file for file in run_dir.rglob("*") if not any(file.is_relative_to(known) for known in again))
    if not any(file.is_file() and file.stat().st_size for file in kept):
        shutil.rmtree(run_dir)
