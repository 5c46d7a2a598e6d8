"""The default recipe in which a part is audited if none is given."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from align.config import nodes, registry
from align.config.parts import Setting
from align.config.schema import Recipe
from align.regularizers import Regularizer

NAME = "kl"


def default_recipe(regularizer: Regularizer, name: str = NAME, *, on_policy: bool = False, samples: bool = True) -> Recipe:
    """An unchecked recipe with this regularizer: dpo for a link, else grpo, or sft if `samples` is False.

    `on_policy`: each batch serves one update; with sft that is always so.
    """
    algorithm = "dpo" if regularizer.placement == "link" else "grpo" if samples else "sft"
    return dataclasses.replace(_recipe(algorithm, on_policy), regularizers={name: regularizer})


def default_setting(part: Any, *, on_policy: bool, samples: bool) -> Setting:
    """The setting of a part in a default recipe: inside a regularizer, if regularizers have such parts."""
    kind = next(kind for kind in registry.ROOMS if isinstance(part, registry.contract(kind)))
    default = nodes.build_part("regularizer", {"coefficient": 1.0}, NAME)
    inside = kind in {f.metadata.get("kind") for f in dataclasses.fields(default)}
    regularizer = part if kind == "regularizer" else dataclasses.replace(default, **{kind: part}) if inside else default
    recipe = default_recipe(regularizer, on_policy=on_policy, samples=samples)
    if kind == "regularizer" or inside:
        where = f"regularizers.{NAME}" + (f".{kind}" if inside else "")
        return Setting(recipe=recipe, where=where, regularizer=regularizer)
    if kind == "algorithm":
        recipe = dataclasses.replace(recipe, algorithm=part)
    return Setting(recipe=recipe, where=kind)


@cache
def _recipe(algorithm: str, on_policy: bool) -> Recipe:
    # No clip: what it cuts depends on the recipe.
    unclipped = {"surrogate": "reinforce"} if algorithm == "grpo" else {}
    several = {} if on_policy or algorithm == "sft" else {"minibatches": 2}
    reward = {"reward": "countdown_exact"} if algorithm == "grpo" else {}
    # The smallest batch: a part's checks of sizes matter only in a real recipe.
    node = {
        "steps": 1,
        "batch": {"prompts": 2, "samples": 2},
        "task": "countdown",
        "algorithm": {"name": algorithm} | unclipped | several,
        "model": {"path": "."},
    }
    return nodes.build(Recipe, node | reward, "")
