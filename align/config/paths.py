"""Where the relative paths of a recipe start."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

KEYS = ("path", "eval_path", "paths")
"""Keys of files and folders: of data, models, adapters and checkpoints."""
OPEN = ("filter", "template", "options", "config")
"""Keys whose mappings have names of the user's own, where `path` may be any word."""
PLUGIN = re.compile(r"^(?!/)[^:\n]*\.(py:\w+|yaml)$|^(\.{1,2}|~)/[^:\n]*:[^\W\d]\w*$")
"""Matches a plugin (a file or `./folder:Class`) or a recipe whose path is relative."""
CERTAIN = re.compile(r"^(\.{1,2}|~)(/|$)|\.(jsonl|json|parquet)$")
"""Matches a path that cannot be the name of a model or dataset on the Hub."""


def paths_start() -> str:
    """The rule, for messages."""
    return (
        "a relative path starts at the folder of the recipe file that names it; on the command line, in Python and in a recipe that comes "
        f"with align, at the working directory, {Path.cwd()}"
    )


def absolute(path: str, folder: Path) -> str:
    """The path from `folder`. A word that may name a model or dataset on the Hub stays as it is, unless `folder` has such a file."""
    # os.path and not Path, which raises for a name that is too long, and for the home of an unknown user.
    found = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    return found if path and (CERTAIN.search(path) or os.path.exists(found)) else path


def absolute_files(node: Any, plugins: Path, data: Path | None = None) -> Any:
    """The node with relative paths made absolute: of plugins and recipes from the folder `plugins`, of data and models from `data`.

    Args: data: None is `plugins`.
    """
    data = plugins if data is None else data
    if isinstance(node, dict):
        return {key: value if key in OPEN else _absolute_value(key, value, plugins, data) for key, value in node.items()}
    if isinstance(node, list):
        return [absolute_files(value, plugins, data) for value in node]
    if isinstance(node, str) and PLUGIN.match(node):
        return str((plugins / Path(node).expanduser()).resolve())
    return node


def _absolute_value(key: Any, value: Any, plugins: Path, data: Path) -> Any:
    if key in KEYS and isinstance(value, str):
        return absolute(value, data)
    if key in KEYS and isinstance(value, list):
        return [absolute(v, data) if isinstance(v, str) else v for v in value]
    return absolute_files(value, plugins, data)
