"""Arguments and options that several commands share, and what a command does with them. Imports nothing heavy: `--help` reads it."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align.complaints import complain
from align.terminal import SafeConsole

if TYPE_CHECKING:
    from align.config.schema import Recipe


def complete(what: str) -> Callable[..., list[str]]:
    """The function of this name in `align.inspect.completion`, imported when a shell asks for completions."""

    def found(ctx: typer.Context, incomplete: str) -> list[str]:
        from align.inspect import completion

        return getattr(completion, what)(ctx, incomplete)

    return found


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or the name of a recipe that comes with align.", autocompletion=complete("recipes")
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to change, by their path in the recipe.", autocompletion=complete("overrides")),
]
FirstRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        show_default=False,
        help="A YAML file, or the name of a recipe that comes with align.",
        autocompletion=complete("recipes"),
    ),
]
MoreRecipes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE]... [KEY=VALUE]...",
        help="More recipes, to compare with; keys to change, of all.",
        autocompletion=complete("recipes_or_overrides"),
    ),
]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Check the parts of your own first.")]
Plugins = Annotated[bool, typer.Option("--plugins/--no-plugins", help="Load what the recipe names outside of align; it can run any code.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def example(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def print_version(wanted: bool) -> None:
    """Print the installed version and end the program, if `wanted`."""
    if wanted:
        from importlib.metadata import version

        print(f"align {version('align')}")
        raise typer.Exit


def checked(recipe: Recipe, check: bool) -> Recipe:
    """The recipe, after the quick checks of its parts that do not come with align. Raises RecipeError at the first that fails."""
    if check:
        from align.testing.door import check_own_parts

        check_own_parts(recipe)
    return recipe


def watched(plugins: bool, recipe: Path) -> AbstractContextManager[None]:
    """Refuses plugins, or says whose code a run's recipe, which may be a stranger's, loads."""
    from align.config.outside_code import announce_loading

    strange = recipe.is_dir() or recipe.name == "recipe.yaml"
    return announce_loading(plugins, (lambda line: complain(line, "yellow")) if strange else lambda line: None)


def wide() -> SafeConsole:
    """A console wide enough for prose if there is no terminal."""
    return SafeConsole() if sys.stdout.isatty() else SafeConsole(width=140)
