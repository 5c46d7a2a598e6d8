"""The plan of a sweep: its recipes and axes multiplied, each cell with every seed, and the folder and changes of each run."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from align.errors import UserError

CLOSES = {"]": "[", "}": "{", ")": "("}
LONGEST_NAME = 100
RECIPE = "recipe"
"""The column of the recipes, where a sweep has several."""


def split(text: str) -> list[str]:
    """Split at commas, except inside brackets, braces and quotes.

    Raises: UserError for an unmatched bracket or quote, and for an empty value.
    """
    values, open_, quote, previous = [""], [], "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and previous in ("", *"[{(,:"):  # elsewhere it is an apostrophe
            quote = character
        elif character in CLOSES.values():
            open_.append(character)
        elif character in CLOSES and (not open_ or open_.pop() != CLOSES[character]):
            raise UserError(f"{text!r}: {character} is not opened")
        if character == "," and not open_ and not quote:
            values.append("")
        else:
            values[-1] += character
        previous = character if character.strip() else previous
    if open_ or quote:
        raise UserError(f"{text!r}: {(open_ or [quote])[-1]} is not closed")
    values = [value.strip() for value in values]
    if "" in values:
        raise UserError(f"{text!r} has an empty value; write null for none")
    return values


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and the values it takes, as YAML."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """The axis written as `KEY=V1,V2,...`."""
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise UserError(f"--over {text!r} is not of the form KEY=V1,V2,...")
        found = split(values)
        twice = [value for value, count in Counter(found).items() if count > 1]
        if twice:
            raise UserError(f"--over {key}: {twice[0]} is given twice")
        return cls(key.strip(), tuple(found))


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    name: str
    """The name of its folder."""
    recipe: Path
    values: tuple[str, ...]
    """One value of each column."""
    changes: tuple[str, ...]
    """The cell's own overrides, `key=value`, in addition to those of every cell."""

    def __str__(self) -> str:
        return " ".join([*self.values[: len(self.values) - len(self.changes)], *self.changes]) or self.name


@dataclass(frozen=True)
class Run:
    """A cell with a seed."""

    cell: Cell
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.cell.name} seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class Plan:
    """A whole sweep."""

    recipes: Mapping[str, Path]
    """The absolute path of each recipe, by its name as the user wrote it."""
    overrides: tuple[str, ...]
    """Overrides of every cell."""
    axes: tuple[Axis, ...]
    seeds: int
    out: Path

    def __post_init__(self):
        keys = [axis.key for axis in self.axes]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise UserError(f"--over {twice[0]} is given twice: give all its values at once")
        changed = [o.partition("=")[0] for o in self.overrides]
        if "seed" in (*keys, *changed):
            raise UserError("seed: --seeds N runs every cell with the seeds 0 to N-1; leave seed out")
        both = [key for key in keys if key in changed]
        if both:
            raise UserError(f"{both[0]} is given both as a change of every cell and by --over; keep one")

    @property
    def columns(self) -> tuple[str, ...]:
        """What cells differ in: `recipe`, if there are several, and the key of each axis."""
        return (*([RECIPE] if len(self.recipes) > 1 else []), *(axis.key for axis in self.axes))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The shortest suffix of each column that is unique among them."""
        return tuple(_shortest(key, [other for other in self.columns if other != key]) for key in self.columns)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        grid = list(itertools.product(self.recipes, *(axis.values for axis in self.axes)))
        names = [self._name(recipe, values) for recipe, *values in grid]
        cells = []
        for name, (recipe, *values) in zip(names, grid, strict=True):
            changes = tuple(f"{axis.key}={value}" for axis, value in zip(self.axes, values, strict=True))
            if names.count(name) > 1 or len(name) > LONGEST_NAME:
                told_apart = repr(changes) if len(self.recipes) == 1 else repr((recipe, *changes))
                name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(told_apart.encode()).hexdigest()[:8]}"
            cells.append(Cell(name, self.recipes[recipe], (recipe, *values)[-len(self.columns) :] if self.columns else (), changes))
        return tuple(cells)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All cells with the first seed, then with the next, so that early results are comparable."""
        return tuple(Run(cell, seed, self.out / cell.name / f"seed_{seed}") for seed in range(self.seeds) for cell in self.cells)

    def changes(self, run: Run) -> list[str]:
        return [*self.overrides, *run.cell.changes, f"seed={run.seed}"]

    def _name(self, recipe: str, values: Sequence[str]) -> str:
        """`gspo,lr=0.001`: the recipe where there are several or no axis, and each axis."""
        first = [] if len(self.recipes) == 1 and self.axes else [self.recipes[recipe].stem]
        labels = self.labels[len(self.columns) - len(self.axes) :]
        return ",".join([*first, *(f"{label}={_plain(value)}" for label, value in zip(labels, values, strict=True))])


def _shortest(key: str, others: list[str]) -> str:
    words = key.split(".")
    ends = [".".join(words[-count:]) for count in range(1, len(words) + 1)]
    return next(end for end in ends if end == key or not any(f".{other}".endswith(f".{end}") for other in others))


def _plain(value: str) -> str:
    """A value as part of a folder's name: `{name: tsallis, q: 0.5}` is tsallis_q_0.5."""
    return re.sub(r"[^\w.+-]+", "_", re.sub(r"\bname:", "", value)).strip("_.") or "empty"
