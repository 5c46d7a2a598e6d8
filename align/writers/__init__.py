"""Writers: who is told a run's numbers beside `metrics.jsonl`, which is always written. Only the driver opens them."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Writer(ABC):
    """The contract. Constructing one does nothing: every worker has a copy, and `open` is called in the driver alone.

    What it raises in `open` stops the run before anything is computed. What it raises later is told once: the writer is left out
    from there on, and the run goes on.
    """

    def refusal(self) -> str | None:
        """Why it cannot write on this machine, with the remedy, or None."""
        return None

    @abstractmethod
    def open(self, folder: Path, run: str, recipe: Mapping[str, Any], done: int) -> None:
        """Begin, or go on with what was begun.

        Args: folder of its own inside the run's, the same when the run is resumed. run: path of the run's folder, as a name.
        recipe: plain data, every default written out. done: steps whose numbers stand, 0 at the start; what it was told of later
        ones is of a future that the resumed run lives anew.
        """

    @abstractmethod
    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers after `step` updates, as `plots/training.png` shows them: training from 1, `eval/...` from 0.

        A step comes a second time where training and evaluation both have numbers of it; no earlier one follows. Values may be NaN
        or infinite.
        """

    def close(self, finished: bool) -> None:
        """Give back files and threads. `finished`: every step of the run was done."""


def missing(package: str) -> str | None:
    """The refusal where a package is not installed, else None. Its name is that of align's extra too."""
    spec = importlib.util.find_spec(package)
    # A folder of that name in the working directory, as wandb leaves them, is a namespace package: it has no origin.
    if spec is not None and spec.origin is not None:
        return None
    return f"needs the package {package}, which is not installed: `pip install {package}`, or align with its extra `{package}`"
