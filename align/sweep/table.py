"""The table of a sweep, for a terminal and as Markdown: one row per cell, every metric as mean and spread over the seeds."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from align.sweep.results import TRAINING
from align.telemetry.units import show, unit

GAP = 3
"""Characters between two columns of a table."""


def texts_of(name: str, statistics: Mapping[str, float] | None, seeds: int) -> list[str]:
    """Mean (with standard deviation, if there is one) and range, as one or two texts, with a note if seeds are missing."""
    if statistics is None:
        return ["-"]
    metric = _metric(name)
    mean = show(metric, statistics["mean"]) + (f" ± {show(metric, statistics['std'])}" if "std" in statistics else "")
    few = f" n={statistics['n']}" if statistics["n"] < seeds else ""
    spread = [f"{show(metric, statistics['min'])}–{show(metric, statistics['max'])}"] if statistics["n"] > 1 else []
    return [mean + few, *spread]


def metric_names(found: Mapping[str, Any]) -> list[str]:
    """In the order of the runs: held-out metrics first, then training metrics."""
    return list(dict.fromkeys(name for cell in found["cells"] for name in cell["metrics"]))


def _metric(name: str) -> str:
    return name.removeprefix("train/")


def title(name: str) -> str:
    """The metric, with its unit if the name does not give it."""
    measured = unit(_metric(name)).label
    return f"{name}, {measured}" if measured not in ("", "share", _metric(name)) else name


def _rows(found: Mapping[str, Any], names: Sequence[str]) -> list[tuple[list[str], str, list[list[str]]]]:
    """Per row: the left cells, the seeds, and the texts of each metric."""
    axes, seeds = len(found["labels"]) or 1, found["seeds"]
    rows = []
    before = {name: s for name, s in found["before"].items() if s is not None}
    if any(name in before for name in metric_names(found)):
        texts = [texts_of(name, before[name], 0) if name in before else ["varies"] if name in found["before"] else [""] for name in names]
        rows.append((["before", *[""] * (axes - 1)], "", texts))
    for cell in found["cells"]:
        done = sum(run["state"] == "finished" for run in cell["runs"])
        texts = [texts_of(name, cell["metrics"].get(name), done) for name in names]
        rows.append((list(cell["changes"].values()) or [cell["name"]], str(done) if done == seeds else f"{done} of {seeds}", texts))
    return rows


def tables(found: Mapping[str, Any], width: int) -> list[Table]:
    """Rich tables that together show every metric, each with as many metrics as fit into `width` characters."""
    names, left = metric_names(found), [*(found["labels"] or ["recipe"]), "seeds"]
    rows = _rows(found, names)
    fixed = sum(max(len(text) for text in column) + GAP for column in zip(left, *([*cell, seeds] for cell, seeds, _ in rows), strict=True))
    parts, room = [[]], width - fixed
    for number, name in enumerate(names):
        heading = _heading(name)
        wide = max(len(line) for line in [*heading.split("\n"), *(line for *_, texts in rows for line in texts[number])]) + GAP
        if parts[-1] and wide > room:
            parts.append([])
            room = width - fixed
        parts[-1].append(number)
        room -= wide
    result = []
    for chosen in parts:
        table = Table(header_style="bold", show_lines=True)
        for label in left:
            table.add_column(label, vertical="middle")
        for number in chosen:
            table.add_column(_heading(names[number]), justify="right")
        for cell, seeds, texts in rows:
            if cell[0] == "before" and not any(texts[number] != [""] for number in chosen):
                continue
            table.add_row(*cell, seeds, *("\n".join(texts[number]) for number in chosen), style="dim" if cell[0] == "before" else "")
        result.append(table)
    return result


def _heading(name: str) -> str:
    """The name on several lines, because numbers are narrower than names."""
    return title(name).replace("/", "/\n", 1).replace(", ", ",\n")


def markdown(found: Mapping[str, Any], plot: Path | None) -> str:
    """The sweep as Markdown: the command, the table, how to read it, and missing runs."""
    names = metric_names(found)
    left = [*(found["labels"] or ["recipe"]), "seeds"]
    lines = [f"`{command(found)}`", "", _line([*left, *(title(name) for name in names)]), _line(["---"] * (len(left) + len(names)))]
    for cell, seeds, texts in _rows(found, names):
        joined = [t[0] if len(t) == 1 else f"{t[0]} ({t[1]})" for t in texts]
        lines.append(_line([*(f"`{c}`" if c and c != "before" else c for c in cell), seeds, *joined]))
    lines += ["", reading(found), *(f"\n{line}" for line in missing(found))]
    return "\n".join([*lines, *([f"\n![every metric by cell]({plot.name})"] if plot else [])]) + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def command(found: Mapping[str, Any]) -> str:
    """The command of this sweep, without its folder."""
    over = [word for key, values in found["over"].items() for word in ("--over", f"{key}={','.join(values)}")]
    return shlex.join(["align", "sweep", *found["recipes"], *found["overrides"], *over, "--seeds", str(found["seeds"])])


def reading(found: Mapping[str, Any]) -> str:
    """One sentence that explains the numbers of the table."""
    spread = "mean ± sample standard deviation" if found["seeds"] >= 3 else "mean"
    over = f"{spread} and lowest–highest over the seeds" if found["seeds"] > 1 else "one seed"
    return f"Each number: {over}, after training; train/...: over the last tenth of the steps of a run."


def absent(found: Mapping[str, Any]) -> list[str]:
    """A line for each requested training metric that no finished run has."""
    if found["training"] == list(TRAINING) or not metric_names(found):
        return []
    return [
        f"no run has a training metric {pattern}"
        for pattern in found["training"]
        if not any(fnmatch.fnmatchcase(name, f"train/{pattern}") for name in metric_names(found))
    ]


def missing(found: Mapping[str, Any]) -> list[str]:
    """A line for each failed run, and one for the unfinished runs."""
    runs = [(cell["name"], run) for cell in found["cells"] for run in cell["runs"]]
    failed = [f"{name} seed {run['seed']} failed: {run['error']} (log: {run['folder']}.log)" for name, run in runs if run["error"]]
    unfinished = sum(run["state"] == "unfinished" for _, run in runs)
    return [*failed, *([f"{unfinished} of {len(runs)} runs have not finished"] if unfinished else [])]
