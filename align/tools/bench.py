"""`align bench kernels`: what align_kernels measured, as a table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Column, Table

from align.errors import UserError
from align_kernels.bench.jobs import JOBS
from align_kernels.bench.measure import measure
from align_kernels.bench.problem import LARGE, SMALL
from align_kernels.bench.providers import BY_HAND, FLOOR
from align_kernels.bench.report import COLUMNS, groups, lines


def bench(out: Path, *, seconds: float, rounds: int, jobs: list[str], console: Console) -> dict[str, Any]:
    """Measure this machine into `out/results.json`. Small shapes on a CPU, those of large models on a GPU."""
    unknown = [job for job in jobs if job not in JOBS]
    if unknown:
        raise UserError(f"there is no job {unknown[0]!r} to measure; there are: {', '.join(JOBS)}")
    on_gpu = torch.cuda.is_available()
    result = measure(
        [JOBS[name] for name in jobs or JOBS],
        LARGE if on_gpu else SMALL,
        device="cuda" if on_gpu else "cpu",
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        rounds=rounds,
        seconds=seconds,
        drift=0.03,
        tell=lambda what: console.print(what, style="dim"),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(result, indent=1))
    return result


def read(file: Path) -> dict[str, Any]:
    """A measurement made elsewhere. Raises UserError where the file holds none."""
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no measurement that `align bench kernels` or `make gpu-bench` wrote: {error}") from error
    if not isinstance(result, dict) or "rows" not in result:
        raise UserError(f"{file} is no measurement that `align bench kernels` or `make gpu-bench` wrote: it has no rows")
    return result


def show(result: dict[str, Any], console: Console) -> None:
    console.print(f"{result['device']}, torch {result['torch']}, {result['threads']} threads, {result['dtype']}")
    for (shape, job), rows in lines(result).items():
        title = f"{job}, {shape} (tokens x width x vocabulary)"
        filled = [i for i in range(1, len(COLUMNS)) if any(row[i] for row in rows)]
        table = Table(Column(COLUMNS[0], no_wrap=True), *(COLUMNS[i] for i in filled), title=title, title_justify="left")
        for row in rows:
            table.add_row(row[0], *(row[i] for i in filled))
        console.print(table)


def plot(result: dict[str, Any], file: Path) -> None:
    """Time against error, one panel a job and shape: the lower left corner is the best."""
    panels = {key: [r for r in rows if r["ms"] is not None] for key, rows in groups(result).items()}
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 3.2 * len(panels)), squeeze=False)
    for axis, ((shape, job), rows) in zip(axes[:, 0], panels.items(), strict=True):
        for row in rows:
            if row["provider"] == FLOOR:
                axis.axvline(row["ms"], color="grey", linestyle=":", label="floor")
            else:
                error = max(row["hidden_error"], 1e-9)
                axis.errorbar(
                    row["ms"],
                    error,
                    xerr=[[row["ms"] - row["ms_low"]], [row["ms_high"] - row["ms"]]],
                    label=row["provider"],
                    marker="o" if row["provider"].startswith(("ours", BY_HAND)) else "x",
                )
        axis.set(xscale="log", yscale="log", title=f"{job}, {shape}", xlabel="forward and backward, ms", ylabel="error of the gradient")
        axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{result['device']}, {result['dtype']}", fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
