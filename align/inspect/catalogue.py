"""The data of `align list`: every part that a recipe can name, with its keys, the keys of the recipe itself, and the shipped recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from align.config import registry
from align.config.docstrings import keys, summary
from align.config.find import shipped_recipes
from align.config.parts import location
from align.config.schema import Recipe
from align.config.suggestions import did_you_mean
from align.errors import RecipeError, UserError
from align.inspect.headers import header

RECIPE = "recipe"
"""Stands for the recipe's own keys; it is not a kind of part."""
RECIPES = "recipes"
"""Stands for the recipes that come with align."""


def catalogue(kind: str | None) -> list[dict[str, Any]]:
    """Parts of one kind, or of all kinds; for RECIPE, its sections; for RECIPES, each with its title.

    A plugin that cannot be imported is listed with its error.

    Raises UserError for an unknown kind.
    """
    if kind == RECIPE:
        return list(_sections("", Recipe))
    if kind == RECIPES:
        found = shipped_recipes().items()
        return [{"kind": RECIPES, "name": n, "origin": "align", "summary": header(f).title, "location": str(f)} for n, f in found]
    if kind is not None and kind not in registry.ROOMS:
        kinds = (*registry.ROOMS, RECIPE, RECIPES)
        raise UserError(f"there is no kind of part called {kind}; {did_you_mean(kind, kinds)}Kinds: {', '.join(kinds)}")
    return [_entry(k, name) for k in ([kind] if kind else registry.ROOMS) for name in (*registry.shipped(k), *registry.installed(k))]


def _sections(path: str, cls: type) -> Iterator[dict[str, Any]]:
    """A schema's own keys, then those of each section in it."""
    inner = {f.name: f.metadata["section"] for f in dataclasses.fields(cls) if "section" in f.metadata}
    own = [key._asdict() for key in keys(cls) if key.name not in inner]
    yield {"kind": RECIPE, "name": path, "origin": "align", "summary": summary(cls), "location": location(cls), "keys": own}
    for name, section in inner.items():
        yield from _sections(f"{path}.{name}".lstrip("."), section)


def _entry(kind: str, name: str) -> dict[str, Any]:
    origin = "align" if name in registry.shipped(kind) else f"entry point {registry.installed(kind)[name].value}"
    entry = {"kind": kind, "name": name, "origin": origin}
    try:
        cls = registry.resolve(kind, name, f"{kind} {name}")
    except RecipeError as error:
        return entry | {"error": str(error)}
    return entry | {"summary": summary(cls), "location": location(cls), "keys": [key._asdict() for key in keys(cls)]}


def tables(parts: list[dict[str, Any]], *, with_keys: bool) -> Iterator[Table]:
    """One table per kind; with `with_keys`, one line per key."""
    for kind in dict.fromkeys(part["kind"] for part in parts):
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, padding=(0, 2), show_header=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for part in (p for p in parts if p["kind"] == kind):
            words = [part["summary"] if "summary" in part else part["error"].strip().splitlines()[-1]]
            if part["origin"] != "align":
                words.append(f"({part['origin']})")
            if part.get("keys") and not with_keys:
                words.append("Keys: " + ", ".join(map(_key, part["keys"])))
            table.add_row(part["name"], " ".join(words))
            for key in part.get("keys", []) if with_keys else []:
                table.add_row("", f"  {_key(key)}  {key['doc']}")
        yield table


def _key(key: dict[str, Any]) -> str:
    return f"{key['name']}: {key['type']}" if key["required"] else f"{key['name']}={key['default']}"
