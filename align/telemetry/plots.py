"""Plots a run from its `metrics.jsonl`: small multiples over steps, with held-out points marked."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from align.disk import writing
from align.telemetry.units import unit
from align.telemetry.writers import read
from align.terminal import printable


class Panel(NamedTuple):
    title: str
    metrics: tuple[str, ...]
    """Patterns of names."""
    from_zero: bool = False


PANELS = (
    Panel("reward", ("reward/mean",)),
    Panel("held out", ("eval/*pass@*", "eval/*majority@*", "eval/*coverage*", "eval/*accuracy*", "eval/*exact_match*")),
    Panel("held-out reward", ("eval/*/reward",)),
    Panel("critic: explained variance", ("critic/explained_variance",)),
    Panel("KL to the reference", ("kl/ref/*",)),
    Panel("KL(policy || initial), exact, held out", ("eval/kl/*",)),
    Panel("entropy", ("entropy",)),
    Panel("loss", ("loss", "loss/*")),
    Panel("gradient norm before clipping", ("grad/norm",), from_zero=True),
    Panel("divergence of each regularizer", ("divergence/*",), from_zero=True),
    Panel("coefficient", ("beta/*",), from_zero=True),
    Panel("response length", ("response/length", "eval/*/length"), from_zero=True),
    Panel("speed", ("tokens/s",), from_zero=True),
    Panel("KL(engine || learner)", ("kl/engine",), from_zero=True),
)
"""The panels of the plot. A panel without numbers is not drawn."""
COLUMNS = 4
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
"""Okabe and Ito's palette, which colour-blind readers can distinguish."""
GREY = "#666666"
LEGEND_LINE = 12
"""Height of a legend line, in points."""

Points = tuple[list[int], list[float]]


def series(records: Sequence[dict]) -> dict[str, Points]:
    """Steps and values of every metric, without nulls. A training step is drawn at the number of completed steps."""
    found: dict[str, Points] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(record["step"] + (0 if name.startswith("eval/") else 1))
                values.append(value)
    return found


def smooth(values: Sequence[float]) -> np.ndarray:
    """The centred moving mean over a twentieth of the run, with a shorter window at the ends."""
    half = len(values) // 40
    return np.array([np.mean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))])


def draw(metrics: Path, picture: Path) -> Path:
    """Write the PNG and return its path. Raises WriteFailed."""
    found = series(read(metrics))
    chosen = [(panel, [n for p in panel.metrics for n in found if fnmatch.fnmatchcase(n, p)]) for panel in PANELS]
    chosen = [(panel, names) for panel, names in chosen if names]
    columns = max(min(COLUMNS, len(chosen)), 1)
    rows = max(-(-len(chosen) // columns), 1)
    headroom = max((_legend(names)[1] for _, names in chosen), default=0)
    figure = _figure(rows, columns, above=(26 + LEGEND_LINE * headroom) / 72)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    last = max((max(steps) for steps, _ in found.values()), default=1)
    for number, (panel, names) in enumerate(chosen):
        _draw_panel(axes[number], panel, {n: found[n] for n in names}, max(last, 1), headroom)
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    with writing(picture):
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture)
    return picture


def _figure(rows: int, columns: int, above: float) -> Figure:
    """A figure with equal panels and `above` inches over each. Fixed margins take half the time of automatic layout."""
    beside, below, width, height = 0.75, 0.55, 3.35, 1.95
    size = (columns * (width + beside) + 0.15, rows * (height + above + below) + 0.05)
    figure = Figure(figsize=size, dpi=110)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=beside / size[0],
        right=1 - 0.15 / size[0],
        bottom=below / size[1],
        top=1 - (above + 0.05) / size[1],
        wspace=beside / width,
        hspace=(above + below) / height,
    )
    return figure


def _draw_panel(axis: Axes, panel: Panel, lines: dict[str, Points], last: int, headroom: int) -> None:
    shared = _shared_folder(list(lines))
    for number, (name, (steps, values)) in enumerate(lines.items()):
        color, label = COLOURS[number % len(COLOURS)], printable(name[len(shared) :]).replace("$", r"\$")
        if name.startswith("eval/"):
            axis.plot(steps, values, "o--", color=color, label=label, markersize=4.5, linewidth=1.0, clip_on=False)
        else:
            axis.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
            axis.plot(steps, smooth(values), color=color, label=label, linewidth=1.5)
    if panel.from_zero:
        _from_zero(axis, [v for _, values in lines.values() for v in values])
    axis.set_title(panel.title, y=1.0, fontsize=10, loc="left", fontweight="bold", pad=6 + LEGEND_LINE * headroom)
    if len(lines) > 1:
        # The legend is between title and axes, so that it hides no data.
        axis.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=_legend(list(lines))[0],
            fontsize=7,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.0,
            handletextpad=0.4,
            labelspacing=0.3,
            borderaxespad=0.2,
        )
    axis.set_xlim(0, last)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_xlabel("steps", fontsize=8, color=GREY)
    axis.set_ylabel(unit(next(iter(lines)).removeprefix("eval/")).label, fontsize=8, color=GREY)
    axis.tick_params(labelsize=8, color=GREY)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(names: list[str]) -> tuple[int, int]:
    """Columns and rows of a legend no wider than its panel; no rows for a single line."""
    shared = _shared_folder(names)
    columns = 4 if sum(len(n) - len(shared) + 4 for n in names) <= 50 else 2
    return columns, -(-len(names) // columns) if len(names) > 1 else 0


def _from_zero(axis: Axes, values: list[float]) -> None:
    """Start the axis at 0, or use a logarithmic scale for values that span more than a factor of 100."""
    if min(values) > 0 and max(values) > 100 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(min(0.0, *values), 1.1 * max(values) or 1.0)
        axis.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False)
        axis.yaxis.get_offset_text().set_fontsize(7)


def _shared_folder(names: list[str]) -> str:
    """The common prefix of all names up to the last slash, which a legend omits."""
    parts = [name.split("/")[:-1] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{word}/" for word in shared)
