"""Reads everything that is compared out of the folder of a run, whatever files it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from compare.differences import METRICS, Place

NAMES_LEFT_OUT = {
    "time/*": "seconds a step took on this machine",
    "memory/*": "memory of a process on this machine",
    "*seconds": "seconds too: sync/seconds, and train_seconds and wall_seconds of the summary",
    "phases.*": "seconds",
    "*tokens/s": "a count over seconds",
}
"""Metrics, and keys of JSON files, that no two runs of one program share; with the reason."""
FILES_LEFT_OUT = {
    "recipe.yaml": "the schema of recipes gets keys; a default that matters changes a number",
    "plots/*": "drawn from the metrics, the times among them",
    "history.jsonl": "times, commands and versions",
    ".lock": "the number of a process",
    "*manifest.json": "hashes of files that are compared themselves, and the hash of the recipe",
}


class Incomplete(Exception):
    """A run that left too little to compare: two of them would be called equal for nothing."""


def read(run: Path, steps: int) -> dict[Place, Any]:
    """All values of a run of so many steps. Raises Incomplete where it lacks a step's metrics, the model or a checkpoint."""
    results: dict[Place, Any] = {}
    for place, value in _everything(run):
        if any(fnmatchcase(place.name, pattern) for pattern in NAMES_LEFT_OUT):
            continue
        if place in results:
            raise Incomplete(f"{place.label} stands there twice" + ("" if place.step is None else f" for step {place.step}"))
        results[place] = value
    measured = {place.step for place in results if place.file == METRICS and not place.name.startswith("eval/")}
    if measured != set(range(steps)):
        raise Incomplete(f"metrics of the steps {sorted(measured)}, not of all {steps}")
    for folder in ("model", "checkpoints"):
        if not any(isinstance(value, Tensor) and place.file.startswith(f"{folder}/") for place, value in results.items()):
            raise Incomplete(f"no tensor in {folder}")
    return results


def _everything(run: Path) -> Iterator[tuple[Place, Any]]:
    for file in sorted(f for f in run.rglob("*") if f.is_file()):
        relative = str(file.relative_to(run))
        if not any(fnmatchcase(relative, pattern) for pattern in FILES_LEFT_OUT):
            yield from _file(file, relative)


def _file(file: Path, relative: str) -> Iterator[tuple[Place, Any]]:
    if relative == METRICS:
        for line in file.read_text().splitlines():
            record = json.loads(line)
            step = record.pop("step")
            for name, value in _leaves(record):
                yield Place(relative, name, step), value
    elif file.suffix == ".jsonl":
        for name, value in _leaves([json.loads(line) for line in file.read_text().splitlines()]):
            yield Place(relative, name), value
    elif file.suffix == ".json":
        for name, value in _leaves(json.loads(file.read_text())):
            yield Place(relative, name), value
    elif file.suffix == ".safetensors":
        for name, value in load_file(file).items():
            yield Place(relative, name), value
    else:
        yield Place(relative, "bytes"), file.read_bytes()


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries and lists, by their keys joined by dots. Where one is empty, it is itself a value."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value
