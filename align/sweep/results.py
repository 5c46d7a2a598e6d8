"""Collects the numbers of a sweep from the folders of its runs, for `sweep.json`, the table and the plot."""

from __future__ import annotations

import fnmatch
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import UserError
from align.sweep.plan import Axis, Plan, Run
from align.telemetry import writers

FILE = "sweep.json"
TRAINING = ("reward/mean", "preference/accuracy", "kl/ref/k3", "entropy")
"""The training metrics in the table by default."""
SPREAD_NEEDS = 3
"""Least number of seeds for a standard deviation."""


def write(plan: Plan, errors: Mapping[str, str], metrics: Sequence[str]) -> dict[str, Any]:
    """Collect the results and write `sweep.json`.

    Args: errors: of failed runs, by `str(run)`; metrics: patterns of training metrics (none: TRAINING).
    """
    found = collect(plan, errors, metrics or TRAINING)
    plan.out.mkdir(parents=True, exist_ok=True)
    unfinished = plan.out / f"{FILE}.{os.getpid()}"  # a report may write at the same moment
    unfinished.write_text(json.dumps(writers.finite(found), indent=1, allow_nan=False) + "\n")
    os.replace(unfinished, plan.out / FILE)
    return found


def read(out: Path) -> tuple[Plan, dict[str, str]]:
    """The plan of a sweep and the errors of its failed runs."""
    try:
        found = json.loads((out / FILE).read_text())
        axes = tuple(Axis(key, tuple(values)) for key, values in found["over"].items())
        plan = Plan({name: Path(file) for name, file in found["recipes"].items()}, tuple(found["overrides"]), axes, found["seeds"], out)
        errors = {f"{cell['name']} seed {run['seed']}": run["error"] for cell in found["cells"] for run in cell["runs"] if run["error"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{out / FILE} is not the file of a sweep ({error!r}); the command of the sweep, given again, writes it "
            "anew and keeps the runs that have finished"
        ) from error
    return plan, errors


def collect(plan: Plan, errors: Mapping[str, str], metrics: Sequence[str]) -> dict[str, Any]:
    """The runs of every cell with the statistics of each metric, and the statistics of the evaluation before the first step."""
    cells = []
    for cell in plan.cells:
        runs = [_run(run, errors.get(str(run)), metrics) for run in plan.runs if run.cell == cell]
        names = dict.fromkeys(name for run in runs for name in run["metrics"])
        over_seeds = {name: statistics_of([run["metrics"].get(name) for run in runs]) for name in names}
        cells.append({"name": cell.name, "changes": dict(zip(plan.columns, cell.values, strict=True)), "metrics": over_seeds, "runs": runs})
    return {
        "recipes": {name: str(file) for name, file in plan.recipes.items()},
        "overrides": list(plan.overrides),
        "over": {axis.key: list(axis.values) for axis in plan.axes},
        "labels": list(plan.labels),
        "seeds": plan.seeds,
        "training": list(metrics),
        "before": _before(cells),
        "cells": cells,
    }


def statistics_of(values: Sequence[float | None]) -> dict[str, float | int] | None:
    """Count, mean, minimum and maximum over the seeds that have the number; from three seeds also the sample standard deviation."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    spread = {"std": statistics.stdev(known)} if len(known) >= SPREAD_NEEDS else {}
    return {"n": len(known), "mean": statistics.fmean(known), "min": min(known), "max": max(known)} | spread


def _run(run: Run, error: str | None, metrics: Sequence[str]) -> dict[str, Any]:
    found = {"seed": run.seed, "folder": str(run.folder), "error": None, "before": {}, "metrics": {}}
    if not run.finished:
        return found | {"state": "failed" if error else "unfinished", "error": error}
    file = run.folder / "summary.json"
    try:
        summary = json.loads(file.read_text())
        before, after = (_numbers(summary[key]) for key in ("before", "after"))
        times = {key: summary.get(key) for key in ("train_seconds", "tokens/s")}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{file} was cut short or overwritten ({problem!r}); delete it, and the sweep finishes that run again") from problem
    try:
        numbers = after | training(writers.read(run.metrics), metrics)
    except (OSError, TypeError, AttributeError, UnicodeDecodeError) as problem:
        raise UserError(f"{run.metrics} cannot be read ({problem}); delete {run.folder}, and the sweep runs it again") from problem
    # A failed run may have its numbers, for example if only its plot failed.
    return found | {"state": "finished", "error": error, "before": before, "metrics": numbers} | times


def _numbers(metrics: Mapping[str, float | None] | None) -> dict[str, float | None]:
    """The metrics of a summary. Raises TypeError for anything else than numbers by name."""
    for name, value in (found := metrics or {}).items():
        if not isinstance(value, int | float | None):
            raise TypeError(f"{name} is {value!r:.40}, not a number")
    return dict(found)


def training(records: Sequence[dict], patterns: Sequence[str]) -> dict[str, float | None]:
    """`train/NAME`: the mean over the last tenth of the steps; None if one of them is not finite."""
    steps = [record for record in records if any(name != "step" and not name.startswith("eval/") for name in record)]
    last = steps[-max(math.ceil(len(steps) / 10), 1) :]
    names = dict.fromkeys(name for p in patterns for record in last for name in record if name != "step" and fnmatch.fnmatchcase(name, p))
    columns = {name: [record[name] for record in last if name in record] for name in names}
    return {f"train/{name}": None if None in values else statistics.fmean(values) for name, values in columns.items()}


def _before(cells: Sequence[dict]) -> dict[str, dict | None]:
    """Statistics over the seeds of each metric before the first step; None if the cells did not start equal.

    Seeds differ in their evaluation, so "equal" means: for each seed, the same number in all cells.
    """
    by_seed: dict[str, dict[int, list[float]]] = {}
    for run in [run for cell in cells for run in cell["runs"]]:
        for name, value in run["before"].items():
            if value is not None:
                by_seed.setdefault(name, {}).setdefault(run["seed"], []).append(value)
    alike = {
        name: all(math.isclose(min(values), max(values), rel_tol=1e-6, abs_tol=1e-9) for values in seeds.values())
        for name, seeds in by_seed.items()
    }
    return {name: statistics_of([values[0] for values in seeds.values()]) if alike[name] else None for name, seeds in by_seed.items()}
