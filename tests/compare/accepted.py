"""Differences that a change makes on purpose: a small YAML file beside the comparison, each entry with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from compare.differences import Difference

KEYS = {"recipe", "metric", "reason"}


@dataclass
class Accepted:
    """One entry. `recipe` and `metric` are patterns as a shell has them; `metric` is matched with the label that a report prints."""

    recipe: str
    metric: str
    reason: str
    used: int = field(default=0, init=False)
    """Differences it has accepted."""

    def takes(self, recipe: str, difference: Difference) -> bool:
        return fnmatchcase(recipe, self.recipe) and fnmatchcase(difference.place.label, self.metric)


def load(file: Path, recipes: list[str]) -> list[Accepted]:
    """The entries of a file: a list of {recipe, metric, reason}. Raises ValueError naming the entry that is none."""
    try:
        entries = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{file} must be a list of entries with the keys recipe, metric and reason")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or set(entry) != KEYS or not all(isinstance(v, str) and v.strip() for v in entry.values()):
            raise ValueError(f"{file}: entry {number} must have the keys recipe, metric and reason, each a text")
        if not any(fnmatchcase(name, entry["recipe"]) for name in recipes):
            raise ValueError(f"{file}: entry {number}: there is no recipe {entry['recipe']}; there are {', '.join(recipes)}")
    return [Accepted(**entry) for entry in entries]


def split(recipe: str, found: list[Difference], entries: list[Accepted]) -> tuple[list[Difference], list[Difference]]:
    """Those that no entry accepts, and those that one does; counts the latter in the entries."""
    refused, taken = [], []
    for difference in found:
        entry = next((e for e in entries if e.takes(recipe, difference)), None)
        (refused if entry is None else taken).append(difference)
        if entry is not None:
            entry.used += 1
    return refused, taken
