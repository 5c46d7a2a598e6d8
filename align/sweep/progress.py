"""Progress of a sweep: a live view on a terminal, otherwise lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rich.live
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from align.sweep.plan import Cell, Plan, Run
from align.telemetry.units import duration, show

HEADLINE = ("reward/mean", "preference/accuracy", "loss", "loss/policy")
"""The first of these metrics that a run has is shown while it runs."""
TAIL = 1 << 16
"""Bytes that are read at the end of a metrics file."""
SILENCE = 60.0
"""Seconds between two progress lines without a terminal."""


def latest(metrics: Path) -> tuple[int, str]:
    """Completed steps and the headline number, from the end of a metrics file that may be growing."""
    if not metrics.is_file():
        return 0, ""
    with metrics.open("rb") as file:
        file.seek(max(metrics.stat().st_size - TAIL, 0))
        complete = file.read().split(b"\n")[:-1]
    for line in reversed(complete):
        try:
            record = json.loads(line)
        except ValueError:  # the tail begins inside a line
            break
        shown = [f"{name} {show(name, record[name])}" for name in HEADLINE if name in record]
        if shown:
            return record["step"] + 1, shown[0]
    return 0, ""


class View:
    """Prints progress lines; the base of the live view."""

    def __init__(self, console: Console, plan: Plan, done: int, steps: Mapping[Cell, int]):
        self._console, self._plan, self._done, self._steps = console, plan, done, steps
        self._began = self._spoke = time.monotonic()
        self._running: dict[Run, float] = {}

    def started(self, run: Run) -> None:
        self._running[run] = time.monotonic()
        self._started(run)

    def ended(self, run: Run, error: str | None, seconds: float) -> None:
        del self._running[run]
        self._done += 1
        place = f"{self._done:>{len(str(len(self._plan.runs)))}}/{len(self._plan.runs)}"
        if error:
            self.note(f"{place}  failed  {run}  {error}", "red")
        else:
            self.note(f"{place}  done    {run}  in {duration(seconds)}", "green")

    def note(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def tick(self) -> None:
        """Called several times a second."""
        if time.monotonic() - self._spoke > SILENCE:
            self._spoke = time.monotonic()
            for run in self._running:
                step, headline = latest(run.metrics)
                self.note(f"at  {run}  step {step}/{self._steps[run.cell]}  {headline}".rstrip())

    def close(self) -> None:
        """There is nothing to release."""

    def _started(self, run: Run) -> None:
        self.note(f"start  {run}")


class LiveView(View):
    """Running processes, redrawn in place; ended runs are printed above."""

    def __init__(self, console: Console, plan: Plan, done: int, steps: Mapping[Cell, int]):
        super().__init__(console, plan, done, steps)
        self._live = rich.live.Live(console=console, get_renderable=self.render, refresh_per_second=2)
        self._live.start()

    def tick(self) -> None:
        """The display refreshes itself."""

    def close(self) -> None:
        self._live.stop()

    def _started(self, run: Run) -> None:
        """Prints nothing: the display shows the run."""

    def render(self) -> Group:
        total, now = len(self._plan.runs), time.monotonic()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"run {self._done}/{total}", style="bold"),
            ProgressBar(total=total, completed=self._done, width=32),
            Text(f"{duration(now - self._began)} gone", style="dim"),
        )
        rows = Table(box=None, show_header=False, padding=(0, 2))
        for run, began in list(self._running.items()):
            step, headline = latest(run.metrics)
            steps = self._steps[run.cell]
            rows.add_row(
                str(run),
                f"step {step}/{steps}" if step else "starting",
                ProgressBar(total=steps or 1, completed=step, width=20),
                headline,
                Text(duration(now - began), style="dim"),
            )
        return Group(head, rows)


@contextmanager
def watch(console: Console, plan: Plan, done: int, steps: Mapping[Cell, int]) -> Iterator[View]:
    view = (LiveView if console.is_terminal else View)(console, plan, done, steps)
    kept = f", {done} finished before" if done else ""
    counts = ((len(plan.cells), "cell"), (plan.seeds, "seed"), (len(plan.runs), "run"))
    cells, seeds, runs = (f"{count} {word}{'s' * (count != 1)}" for count, word in counts)
    view.note(f"{cells} x {seeds} = {runs} in {plan.out}{kept}")
    try:
        yield view
    finally:
        view.close()
