"""The installed packages that parts of a recipe come from: by an entry point, or as `package.module:Class`."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from align.config.parts import Part, ships
from align.plugins.imports import PREFIX


def packages(recipe: Any) -> dict[str, str]:
    """For each top-level package, `DISTRIBUTION VERSION (HASH)`, of its Python sources; `no distribution` where it is imported from a
    folder."""
    names = sorted({type(part).__module__.partition(".")[0] for part in _parts(recipe)})
    return {name: f"{_distribution(name)} ({_hash(name)})" for name in names}


def _parts(built: Any) -> Iterator[Part]:
    """The parts that come neither with align nor from a user's file."""
    if isinstance(built, Part) and not ships(type(built)) and not type(built).__module__.startswith(PREFIX):
        yield built
    inner = built.values() if isinstance(built, dict) else built if isinstance(built, tuple) else ()
    if is_dataclass(built):
        inner = [getattr(built, f.name) for f in fields(built) if f.init]
    for child in inner:
        yield from _parts(child)


def _distribution(package: str) -> str:
    found = _distributions(tuple(sys.path)).get(package, ())
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(found))) or "no distribution"


@functools.lru_cache(maxsize=1)
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Of each top-level package on `sys.path`, which has this value. Reading the lists of all distributions takes 0.4 s."""
    return packages_distributions()


def _hash(package: str) -> str:
    spec, digest = importlib.util.find_spec(package), hashlib.sha256()
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    single = [Path(spec.origin)] if spec is not None and not folders and spec.origin is not None else []
    for file in [*single, *(source for folder in folders for source in sorted(folder.rglob("*.py")))]:
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
