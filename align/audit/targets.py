"""Selects what to audit: a regularizer, the regularizers of a recipe, or one composed around a single part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

from align.audit import certificate
from align.audit.certificate import Certificate
from align.config import nodes, registry, yaml_files
from align.config.find import find_recipe
from align.config.schema import Recipe
from align.config.suggestions import did_you_mean
from align.errors import RecipeError, UserError
from align.regularizers import Regularizer
from align.testing.door import check_own_parts
from align.testing.targets import keys, kind_of, known

KINDS = ("divergence", "estimator", "regularizer")


@overload
def audit(what: Regularizer) -> Certificate: ...
@overload
def audit(what: Recipe) -> dict[str, Certificate]: ...


def audit(what: Regularizer | Recipe) -> Certificate | dict[str, Certificate]:
    """Compare value and gradient of a regularizer's own code with exact enumeration, in float64, on-policy and after a stale update.

    Args:
        what: A regularizer (from `align.regularizer`, or any `Regularizer`), measured on- and off-policy; or a recipe, whose
            regularizers are measured as the recipe uses them. Weighting and coefficient count as 1, because they only scale it.

    Returns:
        A `Certificate`: `verdict` (exact, bounded, biased, no claim or refused), `reason`, `passes`, and `measurements`, with values
        in nats per answer and relative errors. For a recipe, a dict of certificates by name.

    Raises:
        UserError: If a user's own part fails on tensors.

    The exact gradient is `grad D_f = E_pi[f'(u) grad log pi]` (Go et al. 2302.08215), by autograd through f itself.

    Example:
        >>> import align
        >>> align.audit(align.regularizer("jensen_shannon", coefficient=0.1)).verdict
        'exact'
        >>> align.audit(align.regularizer(estimator="k3", coefficient=0.1)).verdict
        'biased'
    """
    if not isinstance(what, Recipe):
        return certificate.audit(what)
    return {name: certificate.audit(r, name, what) for name, r in what.regularizers.items()}


def certificates(what: str, given: Sequence[str]) -> list[Certificate]:
    """One for each regularizer that `what` names: a recipe, or a divergence, estimator or regularizer (a name or `file.py:Class`).

    Args: given: `key=value` words: a recipe's overrides, keys of the part, or keys of the regularizer around it.
    Raises: UserError if there is no such thing, or it cannot be built, and for a recipe whose own parts fail the quick checks. A form
        that a recipe refuses is audited too.
    """
    if ":" in what or any(what in known(kind) for kind in KINDS):
        regularizer = compose(kind_of(what, KINDS), what, keys(given))
        return [certificate.audit(regularizer, what)]
    recipe = nodes.build(Recipe, yaml_files.load(_recipe_file(what), list(given)), "")  # not `recipe.load`, which refuses biased forms
    found = list(audit(recipe).values())
    if all(each.passes for each in found):
        check_own_parts(recipe)  # a weighting or a surrogate is part of what is trained, and of no certificate
    return found


def compose(kind: str, name: str, node: dict[str, Any]) -> Any:
    """The regularizer with this part, all other axes at their defaults, and coefficient 1."""
    if kind == "regularizer":
        return nodes.build_part(kind, _with_coefficient({"name": name} | node, registry.resolve(kind, name, name)), name)
    cls = registry.resolve(kind, name, name)
    own = {f.name for f in dataclasses.fields(cls)} & node.keys()
    part = {"name": name} | {key: node[key] for key in own}
    around = {key: value for key, value in node.items() if key not in own}
    if kind == "divergence" and "estimator" not in around and not nodes.build_part(kind, part, name).is_f_divergence:
        around["estimator"] = "exact"  # no other estimator supports it
    return nodes.build_part("regularizer", {"coefficient": 1.0, kind: part} | around, name)


def _with_coefficient(node: dict[str, Any], cls: type) -> dict[str, Any]:
    return {"coefficient": 1.0} | node if any(f.name == "coefficient" for f in dataclasses.fields(cls)) else node


def _recipe_file(what: str):
    try:
        return find_recipe(what)
    except RecipeError as error:
        hint = did_you_mean(what, [name for kind in KINDS for name in known(kind)])
        raise UserError(f"{what} is no divergence, estimator or regularizer, no folder of a run and no recipe: {hint}{error}") from error
