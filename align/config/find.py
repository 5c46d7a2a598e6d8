"""Finds the file of a recipe by its name."""

from __future__ import annotations

from pathlib import Path

from align.config.suggestions import did_you_mean
from align.errors import RecipeError

LONGEST = 240
"""Characters of a file's name, which most file systems limit to 255 bytes."""


def shipped_folder() -> Path:
    """The folder of the recipes that come with align: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that come with align, by name, sorted: `methods/ipo` is the file of that name in the folder `methods`."""
    folder = shipped_folder()
    names = {str(f.relative_to(folder).with_suffix("")): f for f in folder.rglob("*.yaml")}
    return dict(sorted(names.items()))


def find_recipe(name: str, folder: Path = Path()) -> Path:
    """`recipes/x.yaml`, `x.yaml` or `x`: looked for from `folder`, the working directory by default, then among the shipped recipes.

    Raises: RecipeError with the nearest names.
    """
    wanted = Path(name).expanduser()
    if not wanted.name or "\0" in name or len(wanted.name) > LONGEST:
        raise RecipeError("", f"{name[:80]!r} is not the name of a recipe: give a YAML file, or the name of one that comes with align")
    names = [wanted] if wanted.suffix in (".yaml", ".yml") else [wanted, wanted.with_name(f"{wanted.name}.yaml")]
    bare = [Path(*n.parts[1:]) if n.parts[:1] == ("recipes",) else n for n in names]
    for file in (*(folder / n for n in names), *(shipped_folder() / n for n in bare)):
        if file.is_file():
            return file
    if wanted.is_dir():
        raise RecipeError("", f"{name} is a folder: give the YAML file of a recipe, or the name of one that comes with align")
    shipped, called = shipped_recipes(), str(bare[0].with_suffix(""))
    namesakes = [known for known in shipped if known.rpartition("/")[2] == called]
    hint = did_you_mean(namesakes[0] if namesakes else called, shipped)
    raise RecipeError("", f"there is no recipe {name}; {hint}`align list recipes` lists those that come with align")
