"""The command `align cp`: copies a recipe that comes with align to a file that the user edits."""

from __future__ import annotations

import re
from pathlib import Path

from align.config.find import find_recipe, shipped_folder
from align.disk import write_new
from align.errors import RecipeError, UserError

OTHER_RECIPE = re.compile(r"^([^#\n]*\b(?:base|recipe): *)([^\s,}#]+)\.yaml", re.MULTILINE)
"""A key that names another recipe by its file."""


def copy(name: str, file: Path | None = None) -> Path:
    """Copy a shipped recipe, with its header, to a file of the working directory. Other recipes in it are named as align ships them.

    Args:
        name: As `align list recipes` prints it.
        file: The file to write, or a folder to write into; `.yaml` is added to a name without a suffix. None: the name of the recipe,
            without its folder, in the working directory.

    Returns: The written file.

    Raises: UserError for an unknown recipe, a file that exists, a folder that does not, and a folder in which a file of the user would
    take the place of a recipe that the copy names.
    """
    shipped = shipped_folder().resolve()
    found = find_recipe(name, shipped).resolve()
    if not found.is_relative_to(shipped):
        raise UserError(
            f"{name} does not come with align: copy the file itself, with its relative paths, or name it as the base of a recipe"
        )
    target = Path(found.name) if file is None else file / found.name if file.is_dir() else file
    target = target if target.suffix else target.with_suffix(".yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} is no YAML file: a recipe's name ends in .yaml")
    text = OTHER_RECIPE.sub(lambda match: match[1] + _own_name(match[2], found, target), found.read_text(encoding="utf-8"))
    write_new(target, text, f"give another file, align cp {name} FILE")
    return target


def _own_name(path: str, recipe: Path, target: Path) -> str:
    """The shipped name of the file `path`.yaml, which the shipped `recipe` names. Raises UserError if it means another file in `target`."""
    meant = (recipe.parent / f"{path}.yaml").resolve()
    name = str(meant.relative_to(shipped_folder().resolve()).with_suffix(""))
    try:
        other = find_recipe(name, target.parent).resolve()
    except RecipeError as error:
        raise UserError(f"{recipe}: {error.problem}") from error
    if other != meant or target.resolve() == (target.parent / f"{name}.yaml").resolve():
        raise UserError(
            f"the copy's {name} would be {target.parent / name}.yaml instead of the recipe that comes with align: choose another folder "
            "or name"
        )
    return name
