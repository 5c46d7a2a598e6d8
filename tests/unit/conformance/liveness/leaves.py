"""Every key there is, and what both values of it show."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

from align.config import nodes, registry
from liveness import Change, rooms
from liveness.nodes import START, filled, merged, sections, text
from liveness.rooms import recipe

ROOMS = {
    path.stem: import_module(f"{rooms.__name__}.{path.stem}")
    for path in Path(rooms.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "recipe")
}
CHANGES = {
    (kind, *key): change for kind, module in (*ROOMS.items(), ("recipe", recipe)) for key, change in getattr(module, "CHANGES", {}).items()
}
REQUIRED = {(kind, part): node for kind, module in ROOMS.items() for part, node in getattr(module, "REQUIRED", {}).items()}


def parts() -> list[tuple[str, str]]:
    return [(kind, name) for kind in registry.ROOMS for name in registry.shipped(kind)]


def leaves() -> list[tuple[str, str, str, Any]]:
    """(kind, part, field, default) of everything that can be configured."""
    found = []
    for kind, name in parts():
        cls = registry.resolve(kind, name, "")
        if dataclasses.is_dataclass(cls):
            found += [(kind, name, f.name, f.default) for f in dataclasses.fields(cls) if f.init]
    return found + [("recipe", *leaf) for leaf in sections()]


LEAVES = leaves()


def derived(value: Any) -> Any:
    """Another value of a number or a truth value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    assert isinstance(value, float), f"{value!r} needs an entry in CHANGES"
    return value * 1.5 if value else 0.5


def changed(kind: str, part: str, field: str, default: Any) -> tuple[dict, dict, bool]:
    """Both nodes, and whether one of them is to be refused."""
    entry = next((CHANGES[key] for key in ((kind, part, field), (kind, "*", field), (kind, part, "*")) if key in CHANGES), Change(...))
    required = START if kind == "recipe" else REQUIRED.get((kind, part), {})
    base = merged(required, entry.given)
    where = [*part.split("."), field] if kind == "recipe" and part else [field]
    now = base
    for key in where:
        now = now.get(key, default) if isinstance(now, dict) else default
    to = derived(now) if entry.to is ... else entry.to
    change = to
    for key in reversed(where):
        change = {key: change}
    other = merged(base, change) if kind == "recipe" else base | change
    return base, other, entry.stops


def seen(kind: str, part: str, field: str, node: dict, places: dict[str, str]) -> str:
    if kind == "recipe":
        return recipe.seen(part, field, node, places)
    node = filled({"name": part, **node}, places)
    return text(ROOMS[kind].probe(nodes.build_part(kind, node, kind), places=places, node=node))
