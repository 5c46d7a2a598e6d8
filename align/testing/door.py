"""The quick checks of the kits, on every part of a recipe that does not come with align, before anything is loaded."""

from __future__ import annotations

import importlib
from typing import Any

from align.config import registry
from align.config.parts import location, ships
from align.config.refusals import parts_with_settings
from align.config.schema import Recipe
from align.errors import RecipeError
from align.testing.findings import Kit

QUICK = {
    "advantage": ("advantages", "returns", "what it needs", "least samples", "repeats", "leaves the batch alone"),
    "algorithm": ("keys", "advantages", "targets", "loss", "any split", "measures"),
    "coefficient": ("keys", "beta", "updates", "pure", "multipliers", "what it needs", "state"),
    "curriculum": ("keys", "weights", "repeats", "order"),
    "divergence": ("keys", "elementwise", "f(1) = 0", "convex", "not negative"),
    "estimator": ("keys", "elementwise", "finite", "outcomes"),
    "likelihood": ("keys", "losses", "any split"),
    "loss_weighting": ("keys", "weights", "what it needs", "state"),
    "preference": ("keys", "losses", "pair by pair"),
    "reduction": ("keys", "weights", "leaves the lengths alone"),
    "regularizer": ("keys", "penalty", "any split", "its own entries", "repeats"),
    "shaping": ("keys", "shapes", "what it needs", "repeats", "leaves the batch alone", "metrics"),
    "surrogate": ("keys", "loss", "effective ratio", "any split"),
    "weighting": ("keys", "weights", "what it needs", "repeats", "leaves the batch alone", "one answer"),
}
"""By kind: the checks whose failure means that training goes wrong or stops. They take milliseconds.

Kinds that load a model, read data, open files or answer a policy (critic, engine, environment, reference, reward, task, writer) are
checked where a run uses them.
"""
BEYOND = "IndexError"
"""A part with token ids of its model reaches beyond the few tokens of these checks; whether it is right, the run itself shows."""


def check_own_parts(recipe: Recipe) -> None:
    """Raises RecipeError at the first part of the user that fails a quick check of its kind, with what is wrong and how to fix it."""
    for part, setting in parts_with_settings(recipe):
        if not ships(type(part)):
            _check(part, setting.where)


def _check(part: Any, where: str) -> None:
    kind = next((kind for kind in QUICK if isinstance(part, registry.contract(kind))), None)
    if kind is None:
        return
    kit: Kit = importlib.import_module(f"{__package__}.{registry.ROOMS[kind].rpartition('.')[2]}").KIT
    failed = next((f for f in kit.findings(part, QUICK[kind]) if not f.passed), None)
    if failed is not None and BEYOND not in failed.found:
        place = "" if ".py:" in failed.found else f"{location(type(part))}: "
        name = getattr(part, "recipe_name", type(part).__name__)
        raise RecipeError(
            where,
            f"{place}{failed.found.removeprefix('RecipeError: ')} (the check {failed.name!r} of a {kind}: {failed.expected}). "
            f"{failed.mend}; `align check {name}` runs every check; to run it all the same: --no-check",
        )
