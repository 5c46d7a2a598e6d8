"""Passes metrics to all writers of a recipe. A writer that fails during the run is dropped, and the run continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.config.frozen import checked_instance
from align.errors import RecipeError
from align.writers import RunningWriter, Writer


class FanOut:
    """The open writers, by their names in the recipe."""

    def __init__(self, note: Callable[[str], None]):
        self._note = note
        self._open: dict[str, RunningWriter] = {}

    def open(self, writers: Mapping[str, Writer], run_dir: Path, recipe: Mapping[str, Any], done: int) -> None:
        """Open each writer in its own folder `writers/NAME` of the run.

        Raises: RecipeError at the first that cannot start: nothing is computed yet, and the user may not want a run without it.
        """
        for name, writer in writers.items():
            folder = run_dir / "writers" / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._open[name] = checked_instance(writer, writer.open(folder, str(run_dir), recipe, done), RunningWriter)
            except (Exception, SystemExit) as error:
                remedy = f"fix that, or run without it: writers.{name}=null"
                raise RecipeError(f"writers.{name}", f"cannot begin: {_said(error)}; {remedy}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics after `step` updates."""
        plain = {name: float(value) for name, value in metrics.items()}
        self._each(step, lambda writer: writer.write(step, plain))

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the recorded answers of a step after `step` updates."""
        self._each(step, lambda writer: writer.samples(step, rows))

    def _each(self, step: int, call: Callable[[RunningWriter], None]) -> None:
        for name, writer in list(self._open.items()):
            try:
                call(writer)
            except (Exception, SystemExit) as error:
                del self._open[name]
                self._note(
                    f"writers.{name}: failed at step {step}: {_said(error)}; it is left out from here on. The run goes on, and "
                    "metrics.jsonl has every number"
                )

    def close(self, finished: bool) -> None:
        """Close the open writers. Calling it again does nothing."""
        for name in list(self._open):
            try:
                self._open.pop(name).close(finished)
            except (Exception, SystemExit) as error:
                self._note(f"writers.{name}: could not be closed: {_said(error)}; it may lack the last steps, metrics.jsonl has them")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
