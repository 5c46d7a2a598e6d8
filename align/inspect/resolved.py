"""A recipe with every default written out, as YAML, and the difference of two recipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.config import nodes
from align.config.guard import guarded
from align.config.schema import Recipe
from align.inspect.explain import objective

ABSENT = "—"
"""Stands for a key that one of two recipes does not have."""


class Difference(NamedTuple):
    """A key with different values."""

    key: str
    """Dotted, as an override names it; that of a part has the part's name as its value."""
    first: str
    second: str


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out and no base; loaded again it is the same recipe."""
    # A run writes its recipe.yaml alike. PyYAML's own writer leaves the quotes from a text such as 1e-3, which is then read as a number.
    return OmegaConf.to_yaml(OmegaConf.create(nodes.resolved(recipe)))


def differences(first: Recipe, second: Recipe) -> list[Difference]:
    """Every key whose values differ, in the order of the keys; a mapping that only one recipe has is one entry."""
    return list(_differences("", nodes.resolved(first), nodes.resolved(second)))


def _differences(path: str, first: Any, second: Any) -> Iterator[Difference]:
    if not (isinstance(first, dict) and isinstance(second, dict)):
        if first != second:
            yield Difference(path, _text(first), _text(second))
        return
    for key in dict.fromkeys([*first, *second]):
        inner = path if key == "name" and path else f"{path}.{key}".lstrip(".")
        if key in first and key in second:
            yield from _differences(inner, first[key], second[key])
        else:
            yield Difference(inner, *(_text(node[key]) if key in node else ABSENT for node in (first, second)))


def show_differences(recipes: dict[str, Recipe], out: Console) -> None:
    """Print the keys in which two recipes differ, and the lines of the objective that differ, of each.

    Args: recipes: two, by the names that are printed.
    """
    (a, first), (b, second) = recipes.items()
    found = differences(first, second)
    if not found:
        out.print(Text(f"{a} and {b} are the same recipe"))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("key", style="cyan", overflow="fold")
    for name in (a, b):
        table.add_column(Text(name), overflow="fold")
    for difference in found:
        table.add_row(*map(Text, difference))
    out.print(table)
    rows = {}
    for name, recipe in recipes.items():
        with guarded(recipe):
            rows[name] = [(row.label, row.text) for row in objective(recipe)]
    if rows[a] == rows[b]:
        out.print(Text("\nthe objective is the same", style="dim"))
    for name, other in ((a, b), (b, a)):
        if lines := [row for row in rows[name] if row not in rows[other]]:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="cyan", no_wrap=True)
            grid.add_column(ratio=1)
            for label, text in lines:
                grid.add_row(Text(f"  {label}"), Text(text))
            out.print(Text(f"\nobjective of {name}, where it differs", style="bold"))
            out.print(grid)


def _text(value: Any) -> str:
    """The value as a recipe spells it, in one line; a part without keys is its name."""
    if isinstance(value, dict) and list(value) == ["name"]:
        return value["name"]
    if isinstance(value, str) and value:
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True).removesuffix("\n...\n").strip()
