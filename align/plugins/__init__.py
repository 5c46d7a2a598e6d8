"""Loads a user's own files: `"./mine.py:Mine"`, `"./mypkg:Mine"`, and the modules beside them that they import.

Files are read whenever a recipe is built, and loaded as modules of a private package, one for each folder and state of its files.
So `sys.path` does not change, two folders may both have a `utils.py`, and a class keeps its modules after its file has changed.
Workers get the files as text.
"""

from __future__ import annotations

import importlib
import os
import types
from collections.abc import Iterable
from pathlib import Path

from align.errors import RecipeError
from align.plugins.files import collect
from align.plugins.imports import Plugin, packages, show_lines

_sent: dict[str, str] = {}
"""By the path in a recipe, the private package that the driver sent for it, which takes precedence over this machine's disk."""
_newest: dict[str, str] = {}
"""By the path in a recipe, the private package from which it was loaded last."""


def is_path(spec: str) -> bool:
    """Whether `spec` is a file or folder, not an importable `package.module`."""
    return spec.endswith(".py") or "/" in spec


def load(spec: str, where: str) -> types.ModuleType:
    """The module of the file or package folder `spec`, a path from the working directory.

    Raises RecipeError at `where` if it is missing, unreadable or too large; and any error of the module itself.
    """
    plugin = packages[_sent[spec]] if spec in _sent else _read(spec, where)
    _newest[spec] = plugin.package
    show_lines(plugin)
    return importlib.import_module(f"{plugin.package}.{plugin.named[spec]}")


def loaded(spec: str) -> Plugin | None:
    """The plugin from which `spec` was loaded last; None for the name of a part, or an installed module."""
    return packages[_newest[spec]] if spec in _newest else None


def install(sent: Iterable[Plugin]) -> None:
    """Make plugins of another machine loadable here."""
    for plugin in sent:
        packages[plugin.package] = plugin
        plugin.open()
        _sent.update(dict.fromkeys(plugin.named, plugin.package))


def _read(spec: str, where: str) -> Plugin:
    root, module, files = collect(_file(spec, where), where)
    # Prefer the plugin used last, so that parts of one folder share their common modules.
    plugin = next((p for p in reversed(packages.values()) if p.root == root and p.fits(module, files)), None)
    plugin = Plugin.of(root, module, files) if plugin is None else packages.pop(plugin.package)
    packages[plugin.package] = plugin
    plugin.take(spec, module, files)
    return plugin


def _file(spec: str, where: str) -> Path:
    path = Path(os.path.abspath(Path(spec).expanduser()))
    file = path / "__init__.py" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise RecipeError(where, f"the folder {spec} has no __init__.py, so it is no package: write one, or name a file in it")
    if not file.is_file() or file.suffix != ".py":
        raise RecipeError(
            where,
            f"there is no plugin file {spec} (a relative path starts at the recipe's folder, "
            "or at the working directory when it is given on the command line)",
        )
    return file
