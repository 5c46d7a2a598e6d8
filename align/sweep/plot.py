"""Plots a sweep: for each metric and cell, one dot per seed and the mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from align.sweep.table import metric_names, title
from align.telemetry.plots import COLOURS, COLUMNS, GREY

SHIFT = 0.12
"""Distance between the dots of two seeds, so that equal values are both visible."""


def draw(found: Mapping[str, Any], picture: Path) -> Path | None:
    """Write the PNG and return its path; None if no run has a number yet."""
    names, cells = metric_names(found), found["cells"]
    if not names:
        return None
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    labels = [_label(cell["name"]) for cell in cells]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    crowded = longest * len(cells) > 34
    width, height = max(4.0, 0.5 * len(cells) + 1.5), 2.7 + 0.06 * longest * crowded
    figure = Figure(figsize=(width * columns, height * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        for place, cell in enumerate(cells):
            known = [(run["seed"], run["metrics"][name]) for run in cell["runs"] if run["metrics"].get(name) is not None]
            middle = (found["seeds"] - 1) / 2
            shift = min(SHIFT, 0.6 / found["seeds"])
            axis.scatter(
                [place + (seed - middle) * shift for seed, _ in known],
                [value for _, value in known],
                s=18,
                alpha=0.75,
                color=COLOURS[0],
                linewidths=0,
                clip_on=False,
            )
            if known:
                axis.hlines(cell["metrics"][name]["mean"], place - 0.3, place + 0.3, color=COLOURS[1], linewidth=2)
        before = found["before"].get(name)
        if before:
            axis.axhline(before["mean"], color=GREY, linewidth=1, linestyle=":")
            axis.annotate(
                "before", (1, before["mean"]), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color=GREY
            )
        axis.set_title(title(name), fontsize=9, loc="left", fontweight="bold")
        axis.set_xlim(-0.6, len(cells) - 0.4)
        axis.set_xticks(range(len(cells)), labels, fontsize=8, rotation=90 if crowded else 0)
        axis.tick_params(labelsize=8, color=GREY)
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("a dot: one seed; the bar: their mean", fontsize=8, color=GREY)
    figure.savefig(picture)
    return picture


def _label(name: str) -> str:
    return name.replace(",", "\n")
