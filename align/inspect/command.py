"""The command `align explain`: one recipe as maths or as YAML, or the difference of two."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from align.config.find import find_recipe
from align.errors import UserError
from align.options import checked, watched, wide


def explain(recipe: str, words: Sequence[str], resolved: bool, check: bool, plugins: bool) -> None:
    """Print what a recipe optimises; with `resolved` all its keys as YAML; with a second recipe in what the two differ.

    Args: words: overrides `key.path=value`, of both recipes, and at most one name of another recipe.
    Raises: UserError for what is no recipe, before a library is imported that takes seconds, and for a third one.
    """
    files = {name: find_recipe(name) for name in (recipe, *(word for word in words if "=" not in word))}
    if len(files) > 2 or (resolved and len(files) > 1):
        raise UserError("give one recipe, or two to compare without --resolved; keys are changed with KEY=VALUE")

    from align.config.recipes import load  # noqa: PLC0415
    from align.inspect.explain import show  # noqa: PLC0415
    from align.inspect.resolved import show_differences, to_yaml  # noqa: PLC0415

    built, out = {}, wide()
    for name, file in files.items():
        with watched(plugins, file):
            built[name] = checked(load(file, [word for word in words if "=" in word]), check)
            if resolved:
                print(f"# {file}, with every default\n{to_yaml(built[name])}", end="")
            elif len(files) == 1:
                out.print(Text(f"{file}\n", style="dim"))
                show(built[name], out)
    if len(files) == 2:
        show_differences(built, out)
