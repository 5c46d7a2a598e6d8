"""What a shell completes on the command line: recipes, their keys, and kinds of parts. A Tab must be fast, so nothing imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from align.config.find import find_recipe, shipped_recipes
from align.config.registry import ROOMS
from align.errors import UserError

DEEPEST_BASE = 20
"""Bases of bases that are read: a recipe that inherits from itself must not hang a Tab."""


def recipes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of recipes that come with align, and YAML files of the folder that is being typed, which begin with `incomplete`."""
    folder, _, start = incomplete.rpartition("/")
    here = (file.name for file in Path(folder or "/" if "/" in incomplete else ".").expanduser().glob("*.y*ml"))
    files = [f"{folder}/{name}" if "/" in incomplete else name for name in here if name.startswith(start)]
    return sorted(files) + [name for name in shipped_recipes() if name.startswith(incomplete)]


def overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys that the recipe on the command line or one of its bases writes, as `batch.prompts=`.

    Keys that only have their defaults there are not offered: `align list recipe` has them.
    """
    try:
        node = _written(find_recipe(str(ctx.params.get("recipe"))))
    except (UserError, OSError, ValueError, yaml.YAMLError):
        return []  # a message would land in the line that is being typed
    return [f"{key}=" for key in _flat("", node) if key.startswith(incomplete)]


def recipes_or_overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of the recipe on the command line, and names of other recipes."""
    return [*overrides(ctx, incomplete), *(recipes(ctx, incomplete) if incomplete else [])]


def kinds(ctx: typer.Context, incomplete: str) -> list[str]:
    """Kinds of parts that begin with `incomplete`."""
    return [kind for kind in ROOMS if kind.startswith(incomplete)]


def _written(file: Path, depth: int = 0) -> dict[str, Any]:
    """The mapping in the file over that of its base, merged key by key: for names, so a replaced part may keep keys of the old one."""
    node = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(node, dict):
        return {}
    base = node.pop("base", None)
    if not isinstance(base, str) or depth > DEEPEST_BASE:
        return node
    return _merged(_written(find_recipe(base, file.parent), depth + 1), node)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], value) for key, value in change.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return base | change | both


def _flat(path: str, node: dict[str, Any]) -> Iterator[str]:
    """Dotted keys of the values that are no mappings."""
    for name, value in node.items():
        key = f"{path}.{name}".lstrip(".")
        yield from _flat(key, value) if isinstance(value, dict) else (key,)
