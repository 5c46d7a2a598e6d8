"""The picture of a run, drawn from its `metrics.jsonl`: small multiples over steps, held-out points marked."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from align.telemetry.units import unit
from align.telemetry.writers import read

PANELS = (
    ("reward", ("reward/mean",), "linear"),
    ("held out", ("eval/*pass@*", "eval/*coverage*", "eval/*accuracy*"), "linear"),
    ("KL to the reference", ("kl/ref/*",), "linear"),
    ("KL(policy || initial), exact, held out", ("eval/kl/*",), "linear"),
    ("entropy", ("entropy",), "linear"),
    ("loss", ("loss", "loss/*"), "linear"),
    ("gradient norm, before clipping", ("grad/norm",), "log"),
    ("coefficient", ("beta/*",), "linear"),
    ("response length", ("response/length",), "linear"),
    ("speed", ("tokens/s",), "linear"),
    ("KL(engine || learner)", ("kl/engine",), "log"),
)
"""Title, metrics, scale of the values. A panel without numbers is not drawn."""
COLUMNS = 4
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
"""Okabe and Ito's, told apart by colour-blind readers."""

Points = tuple[list[int], list[float]]


def series(records: Sequence[dict]) -> dict[str, Points]:
    """Steps and values of every metric, nulls left out. A training step is drawn at the number of updates it completes."""
    found: dict[str, Points] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(record["step"] + (0 if name.startswith("eval/") else 1))
                values.append(value)
    return found


def draw(metrics: Path, picture: Path) -> Path:
    """Write the PNG and return its path."""
    found = series(read(metrics))
    panels = [(title, names, scale) for title, patterns, scale in PANELS
              if (names := [n for p in patterns for n in found if fnmatch.fnmatchcase(n, p)])]
    rows = max(-(-len(panels) // COLUMNS), 1)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    last = max((max(steps) for steps, _ in found.values()), default=1)
    for axis, (title, names, scale) in zip(axes, panels, strict=False):
        _panel(axis, title, {n: found[n] for n in names}, scale, last)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    return picture


def _panel(axis: Axes, title: str, lines: dict[str, Points], scale: str, last: int) -> None:
    common = _common_prefix(list(lines))
    for number, (name, (steps, values)) in enumerate(lines.items()):
        held_out = name.startswith("eval/")
        colour = COLOURS[number % len(COLOURS)]
        if scale == "log":
            steps, values = zip(*[(s, v) for s, v in zip(steps, values, strict=True) if v > 0] or [((), ())], strict=True)
        axis.plot(steps, values, color=colour, linewidth=1.3, label=name[len(common) :] or name,
                  marker="o" if held_out else None, markersize=4.5, linestyle="--" if held_out else "-")
    axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axis.set_ylabel(unit(next(iter(lines)).removeprefix("eval/")).label, fontsize=8, color="#555555")
    axis.set_yscale(scale)
    axis.set_xlim(0, last * 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_xlabel("steps", fontsize=8, color="#555555")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axis.legend(fontsize=7, frameon=False, handlelength=1.6)


def _common_prefix(names: list[str]) -> str:
    """Up to the last slash that all names share: the legend need not repeat it."""
    if len(names) == 1:
        return ""
    first = names[0].split("/")
    depth = next((i for i in range(len(first)) if any(n.split("/")[: i + 1] != first[: i + 1] for n in names)), 0)
    return "/".join(first[:depth]) + "/" if depth else ""
