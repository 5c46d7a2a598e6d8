"""Progress of a run: a live table on a terminal, otherwise one aligned line per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import rich.live
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from align.telemetry.units import duration, show, unit
from align.terminal import printable

HEADLINE = (
    "reward/mean",
    "preference/accuracy",
    "preference/margin",
    "critic/explained_variance",
    "kl/ref/k3",
    "entropy",
    "loss",
    "loss/policy",
    "grad/norm",
    "response/length",
    "tokens/s",
)
BLOCKS = "▁▂▃▄▅▆▇█"
TREND = 24
"""Width of a trend line, in characters."""
WINDOW = 20
"""Number of last steps whose mean duration estimates the remaining time."""


class Pace:
    """Estimates the time per step and the remaining time. Loading before the first step is not counted."""

    def __init__(self, steps: int, clock: Callable[[], float]):
        self._steps, self._clock, self._times = steps, clock, []

    def tick(self) -> None:
        self._times = [*self._times[-WINDOW:], self._clock()]

    def seconds_per_step(self) -> float | None:
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1) if len(self._times) > 1 else None

    def left(self, done: int) -> float | None:
        each = self.seconds_per_step()
        return None if each is None else each * (self._steps - done)


def trend(values: Sequence[float | None]) -> str:
    """The finite values of the whole run as a sparkline of TREND block characters."""
    known = [v for v in values if v is not None and abs(v) != float("inf") and v == v]
    if len(known) < 2:
        return ""
    bins = min(TREND, len(known))
    means = []
    for i in range(bins):
        inside = known[i * len(known) // bins : (i + 1) * len(known) // bins]
        means.append(sum(inside) / len(inside))
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((m - low) / (high - low) * (len(BLOCKS) - 1)) if high > low else 0] for m in means)


class Plain:
    """One line per step, without colour or cursor movement, for files, pipes and clusters."""

    def __init__(self, console: Console, steps: int, first_step: int, clock: Callable[[], float]):
        self._console, self._steps = console, steps
        self._pace = Pace(steps, clock)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._pace.tick()
        shown = {name: show(name, metrics[name]) for name in HEADLINE if name in metrics}
        self._line("step", step + 1, shown | {"eta": duration(self._pace.left(step + 1))})

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._line("eval", step, {name: show(name, value) for name, value in metrics.items()})

    def _line(self, word: str, done: int, shown: Mapping[str, str]) -> None:
        place = f"{done:>{len(str(self._steps))}}/{self._steps}"
        self._console.print(
            "  ".join([word, place, *(f"{printable(name)} {value:>9}" for name, value in shown.items())]).rstrip(), markup=False
        )

    def close(self) -> None:
        """There is nothing to release."""


class Live:
    """A table of the main metrics, redrawn in place: current value, first value and trend."""

    def __init__(self, console: Console, steps: int, first_step: int, clock: Callable[[], float]):
        self._steps, self._done, self._clock = steps, first_step, clock
        self._pace, self._began = Pace(steps, clock), clock()
        self._history: dict[str, list[float]] = {}
        self._evaluated: tuple[int, Mapping[str, float]] | None = None
        self._live = rich.live.Live(console=console, get_renderable=self.render, refresh_per_second=4)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._done = step + 1
        self._pace.tick()
        for name in HEADLINE:
            if name in metrics:
                self._history.setdefault(name, []).append(metrics[name])
        self._draw()

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._evaluated = step, metrics
        self._draw()

    def _draw(self) -> None:
        # Start with the first number: a warm start has its own display, and a terminal can show only one.
        self._live.start()
        self._live.refresh()

    def close(self) -> None:
        self._live.stop()

    def render(self) -> Group:
        return Group(self._bar(), *([self._table()] if self._history else []), *([_held_out(*self._evaluated)] if self._evaluated else []))

    def _bar(self) -> Table:
        each = self._pace.seconds_per_step()
        row = Table.grid(padding=(0, 2))
        row.add_row(
            Text(f"step {self._done}/{self._steps}", style="bold"),
            ProgressBar(total=max(self._steps, 1), completed=self._done, width=32),
            Text(f"{self._done / max(self._steps, 1):.0%}"),
            Text("" if each is None else f"{each:.2f} s/step", style="dim"),
            Text(f"{duration(self._clock() - self._began)} gone, {duration(self._pace.left(self._done))} left", style="dim"),
        )
        return row

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("")
        table.add_column("now", justify="right", min_width=9)
        table.add_column("first", justify="right", min_width=9, style="dim")
        table.add_column("trend", style="cyan", min_width=TREND)
        table.add_column("", style="dim")
        for name in HEADLINE:
            if name in self._history:
                values = self._history[name]
                label = "" if unit(name).label == name else unit(name).label
                table.add_row(Text(name), Text(show(name, values[-1]), style="bold"), show(name, values[0]), trend(values), label)
        return table


def _held_out(step: int, metrics: Mapping[str, float]) -> Text:
    numbers = "   ".join(f"{printable(name)} {show(name, value)}" for name, value in metrics.items())
    return Text(f"  held out, after {step} steps: {numbers}", style="green")
