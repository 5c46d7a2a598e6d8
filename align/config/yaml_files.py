"""Reads recipes from YAML as plain data, merges their bases and applies overrides.

With `base: other.yaml` a recipe contains only the differences from its base.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align.config.find import find_recipe, shipped_folder
from align.config.paths import absolute_files
from align.errors import RecipeError

DEEPEST = 50
"""Mappings and lists inside each other in a recipe."""
TOO_DEEP = f"has mappings or lists nested deeper than {DEEPEST}: is a bracket repeated?"


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict:
    """The recipe as plain data, with bases merged and overrides applied. Relative paths become absolute (`align.config.paths`).

    Args: path: of a YAML file; overrides: strings `key.path=value`.
    Raises: RecipeError for a missing or malformed file, a base that loops, or a malformed override.
    """
    if isinstance(overrides, str):
        raise RecipeError("", f"overrides are a list, each key=value: write [{overrides!r}]")
    node = _load_file(Path(path).absolute(), seen=())
    for override in overrides:
        if "=" not in override:
            raise RecipeError("", f"the override {override!r} is not of the form key=value: steps=80, or key=null, which takes a key away")
        if override[0] in "+~=":
            raise RecipeError("", f"the override {override!r} begins with {override[0]!r}: write key=value, or key=null to take a key away")
        try:
            change = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except RecursionError as error:
            raise RecipeError(f"{override:.40}", TOO_DEEP) from error
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            raise RecipeError(f"{override:.80}", f"cannot be read: {' '.join(str(error).split())}") from error
        _refuse_depth(change, f"{override:.40}")
        node = _merge(node, absolute_files(change, Path.cwd()))
    return node


def _load_file(path: Path, seen: tuple[Path, ...]) -> dict:
    if path in seen:
        raise RecipeError("base", f"{path} inherits from itself: {' -> '.join(str(p) for p in (*seen, path))}")
    if not path.is_file():
        raise RecipeError("", f"there is no recipe {path}")
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
    except RecursionError as error:
        raise RecipeError(str(path), TOO_DEEP) from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise RecipeError(str(path), f"is not valid YAML in UTF-8: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RecipeError(str(path), f"cannot be read: {error.strerror}") from error
    if not isinstance(node, dict):
        raise RecipeError(str(path), "a recipe is a mapping of keys to values")
    _refuse_depth(node, str(path))
    base = node.pop("base", None)
    # Users name a shipped recipe without its folder, and their data are in no folder of it.
    shipped = path.is_relative_to(shipped_folder())
    node = absolute_files(node, path.parent, Path.cwd() if shipped else path.parent)
    return node if base is None else _merge(_load_file(_base(base, path), (*seen, path)), node)


def _refuse_depth(node: Any, where: str) -> None:
    """Raises RecipeError for values nested deeper than any recipe's."""
    level, depth = [node], 0
    while level := [inner for n in level if isinstance(n, dict | list) for inner in (n.values() if isinstance(n, dict) else n)]:
        depth += 1
        if depth > DEEPEST:
            raise RecipeError(where, TOO_DEEP)


def _base(name: Any, asked_by: Path) -> Path:
    """The path of a base: beside the recipe that names it, or one that comes with align."""
    if not isinstance(name, str):
        raise RecipeError("base", f"{asked_by}: must name a recipe, not {name!r}")
    try:
        return find_recipe(name, asked_by.parent).resolve()
    except RecipeError as error:
        raise RecipeError("base", f"{asked_by}: {error.problem}") from error


def _merge(base: Any, change: Any) -> Any:
    """Mappings merge key by key; another part's name, or null, replaces the node."""
    # A part without keys may be just its name: `divergence: tsallis` and `divergence: {name: tsallis}` merge alike.
    if isinstance(base, str) and isinstance(change, dict):
        base = {"name": base}
    if isinstance(base, dict) and "name" in base and isinstance(change, str):
        change = {"name": change}
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    if "name" in change and change["name"] != base.get("name"):
        return change
    return base | {key: _merge(base[key], value) if key in base else value for key, value in change.items()}
