"""A writer: gets the metrics of a run, beside metrics.jsonl.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    writers: {mine: "./skeleton.py:Skeleton"}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.writers import RunningWriter, Writer


class Skeleton(Writer):
    """One line for each number, separated by tabs, in a file of the run's folder."""

    file: str = "metrics.tsv"

    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], done: int) -> RunningWriter:
        """Begin, or go on in the same folder after `done` steps."""
        return RunningSkeleton(folder / self.file)


class RunningSkeleton(RunningWriter):
    """An open file."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers after `step` updates; values may be NaN or infinite."""
        for name, value in metrics.items():
            self._file.write(f"{step}\t{name}\t{value:g}\n")
        self._file.flush()

    def close(self, finished: bool) -> None:
        self._file.close()
