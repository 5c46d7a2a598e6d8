"""Writers: where a run's metrics go beside `metrics.jsonl`, which is always written. Only the driver opens them."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.config.parts import Part


class Writer(Part, ABC):
    """The contract of the part: its keys, and what `open` makes of them, in the driver alone; every worker has a copy of the part.

    `refuse` is asked by the driver: a worker may lack its package. What `open` raises stops the run before anything is computed.
    """

    @abstractmethod
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], done: int) -> RunningWriter:
        """Begin, or go on with what was begun.

        Args: folder of its own inside the run's, the same when the run is resumed. run: path of the run's folder, as a name.
        recipe: plain data, every default written out. done: steps whose numbers stand, 0 at the start; what it got later
        ones is of a future that the resumed run lives anew.
        """


class RunningWriter(ABC):
    """The contract of what `open` returns. What it raises is told once: the writer is left out from there on, and the run goes on."""

    @abstractmethod
    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers after `step` updates, as `plots/training.png` shows them: training from 1, `eval/...` from 0.

        A step comes a second time where training and evaluation both have numbers of it; no earlier one follows. Values may be NaN
        or infinite.
        """

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Answers of a step, as rows of `samples.parquet` (see `align.run.samples.SCHEMA`). A writer without texts ignores them."""

    def close(self, finished: bool) -> None:
        """Give back files and threads. `finished`: every step of the run was done."""


def missing(package: str) -> str | None:
    """The reason to refuse where a package is not installed, else None. Its name is that of align's extra too."""
    spec = importlib.util.find_spec(package)
    # A folder of that name in the working directory, as wandb leaves them, is a namespace package: it has no origin.
    if spec is not None and spec.origin is not None:
        return None
    return f"needs the package {package}, which is not installed: `pip install {package}`, or align with its extra `{package}`"
