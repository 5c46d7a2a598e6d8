"""Shows a run on the terminal and writes `metrics.jsonl`, `summary.json` and `plots/training.png`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.telemetry.fan_out import FanOut
from align.telemetry.progress import Live, Plain
from align.telemetry.writers import Metrics, write_summary
from align.terminal import SafeConsole, printable
from align.writers import Writer

_console = SafeConsole(highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a one-line message, above the live display if there is one."""
    _console.print(printable(text), markup=False)


class Telemetry:
    """Receives a run's metrics and messages, and passes them to the display, the files and the writers."""

    def __init__(self, run_dir: Path, steps: int, first_step: int = 0):
        """Args: steps: of the whole run; first_step: where it starts or resumes. Drops lines of metrics.jsonl from first_step on."""
        self._run_dir, self._steps, self._first_step = run_dir, steps, first_step
        self._metrics = Metrics(run_dir / "metrics.jsonl", first_step)
        self._writers = FanOut(self.note)
        self._progress = (Live if _console.is_terminal else Plain)(_console, steps, first_step, clock=time.monotonic)

    def open(self, writers: Mapping[str, Writer], recipe: Mapping[str, Any]) -> None:
        """Open a recipe's writers, which then receive the metrics. Raises RecipeError if one cannot start.

        Args: recipe: plain data, for writers that store it.
        """
        self._writers.open(writers, self._run_dir, recipe, self._first_step)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of a step (from 0), after its update."""
        self._metrics.write(step, metrics)
        self._writers.write(step + 1, metrics)
        self._progress.step(step, metrics)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Held-out numbers after `step` updates, so 0 is the initial model; written as `eval/...`."""
        named = {f"eval/{name}": value for name, value in metrics.items()}
        self._metrics.write(step, named)
        self._writers.write(step, named)
        self._progress.evaluation(step, metrics)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]], lines: Iterable[str]) -> None:
        """The recorded answers of a step (from 0), and the lines that show some of them."""
        if rows:
            self._writers.samples(step + 1, rows)
        for line in lines:
            note(line)

    def note(self, text: str) -> None:
        """Print a one-line message."""
        note(text)

    def close(self, finished: bool = False) -> None:
        """Release the terminal and close the files, also for a stopped run. Calling it again does nothing."""
        self._progress.close()
        self._metrics.close()
        self._writers.close(finished)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close, write `summary.json` and the plot, print the table.

        Args: summary: `before` and `after` map evaluation metrics to numbers; every other number is a separate row.
        """
        # matplotlib takes a second to import, so import it only to draw.
        from align.telemetry.plots import draw  # noqa: PLC0415
        from align.telemetry.report import table, times  # noqa: PLC0415

        self.close(finished=True)
        write_summary(self._run_dir / "summary.json", summary)
        plot = draw(self._run_dir / "metrics.jsonl", self._run_dir / "plots" / "training.png")
        _console.print(table(summary))
        if phases := summary.get("phases"):
            note(times(phases))
        note(f"kept in {self._run_dir}: metrics.jsonl, summary.json, {plot.relative_to(self._run_dir)}")
