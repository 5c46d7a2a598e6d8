"""The named parts of a reward, as advantages and shapings read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from align.config.parts import Setting
from align.errors import RecipeError


def missing_part(setting: Setting, chosen: tuple[str, ...]) -> str | None:
    """Why the recipe's reward cannot have these parts, as far as it is known before the first answer, or None."""
    names = None if setting.recipe.reward is None else setting.recipe.reward.part_names
    missing = [] if names is None else [name for name in chosen if name not in names]
    return f"the reward has no part called {missing[0]}; its parts are: {', '.join(names or ())}" if missing else None


def chosen_parts(parts: Mapping[str, Tensor], chosen: tuple[str, ...], where: str) -> tuple[tuple[str, ...], Tensor]:
    """The names, and the values [S, K] of the parts of each answer, NaN where it has none.

    `chosen`: the names; empty: all of them but parts of parts (NAME/PART). Raises RecipeError at `where` for a reward without the parts.
    """
    names = chosen or tuple(name for name in parts if "/" not in name)
    if not names:
        raise RecipeError(
            where,
            "the reward has no named parts: return a dict with `total` and the parts from it, or use reward: {name: sum, rewards: {...}}",
        )
    if missing := [name for name in names if name not in parts]:
        raise RecipeError(where, f"the reward has no part called {missing[0]}; its parts are: {', '.join(parts) or 'none'}")
    return names, torch.stack([parts[name] for name in names], 1)
