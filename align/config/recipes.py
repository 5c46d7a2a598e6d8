"""Reads, builds and checks whole recipes, without loading a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.config import nodes, yaml_files
from align.config.checks import check
from align.config.find import find_recipe
from align.config.renamed_keys import refuse_moved
from align.config.schema import Recipe
from align.errors import RecipeError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, build its parts and check it as a whole; loads no model and no data.

    Args:
        path: A YAML file, or the name of a recipe that comes with align.
        overrides: Strings `key.path=value`, as on the command line.

    Returns:
        A frozen `Recipe`, which can be trained any number of times.

    Raises:
        RecipeError: Names the wrong key and the remedy.

    The keys are those of `align list recipe`; a recipe file names the paper it follows.

    Example:
        >>> import align
        >>> recipe = align.load("countdown_grpo", ["steps=2", "regularizers.kl.coefficient=0.03"])
        >>> recipe.steps, recipe.regularizers["kl"].coefficient
        (2, Constant(value=0.03))
    """
    return build(yaml_files.load(find_recipe(str(path)), overrides))


def build(node: dict) -> Recipe:
    """The recipe of a plain node, such as the `recipe.yaml` of a run."""
    _refuse_gpus(node)
    refuse_moved(node)
    recipe = nodes.build(Recipe, node, "")
    check(recipe)
    return recipe


def _refuse_gpus(node: dict) -> None:
    workers = node.get("workers")
    if isinstance(workers, dict) and "gpus" in workers:
        raise RecipeError(
            "workers.gpus",
            "is two keys: workers.learner_gpus, of the learner, and workers.rollout_gpus, of each rollout "
            "actor; where neither is given, each takes a GPU if there is one",
        )
