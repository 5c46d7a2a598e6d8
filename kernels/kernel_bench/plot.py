"""A measurement as a picture: time against error, one panel a job and shape. The lower left corner is the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kernel_bench.providers import BY_HAND, FLOOR
from kernel_bench.report import groups


def plot(result: dict[str, Any], file: Path) -> None:
    """Write the PNG."""
    panels = {key: [r for r in rows if r["ms"] is not None] for key, rows in groups(result).items()}
    figure = Figure(figsize=(8, 3.2 * len(panels)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)
    for axis, ((shape, job), rows) in zip(axes[:, 0], panels.items(), strict=True):
        for row in rows:
            if row["provider"] == FLOOR:
                axis.axvline(row["ms"], color="grey", linestyle=":", label="floor")
            else:
                axis.errorbar(
                    row["ms"],
                    max(row["hidden_error"], 1e-9),
                    xerr=[[row["ms"] - row["ms_low"]], [row["ms_high"] - row["ms"]]],
                    label=row["provider"],
                    marker="o" if row["provider"].startswith(("ours", BY_HAND)) else "x",
                )
        axis.set(xscale="log", yscale="log", title=f"{job}, {shape}", xlabel="forward and backward, ms", ylabel="error of the gradient")
        axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{result['device']}, {result['dtype']}", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
