"""Certifies whether a regularizer has the value and gradient of the divergence it names, and if not, which gradient it has."""

from __future__ import annotations

from dataclasses import dataclass

from align.audit.default_recipe import default_recipe
from align.config.docstrings import format_part, sentence
from align.config.parts import Setting
from align.config.refusals import regularizer_refusal
from align.config.schema import Recipe
from align.oracle.measure import Measurement
from align.oracle.verdict import Verdict, judge
from align.regularizers import Regularizer
from align.regularizers.composed import Composed


@dataclass(frozen=True, kw_only=True)
class Certificate:
    name: str
    form: str
    """The regularizer in words."""
    measurements: tuple[Measurement, ...]
    verdict: str
    """Of divergence, gradient and value: `exact`, `bounded` (exact except where `ratio_cap`, `clamp` or the surrogate's clip cuts),
    `biased`, `no claim` (no divergence named), or `refused` (not biased, but a recipe refuses it)."""
    reason: str
    refusal: str | None
    """Why a recipe refuses it as configured, or None."""
    allowed: bool
    """Whether `allow_biased: true` is set."""

    @property
    def passes(self) -> bool:
        return self.refusal is None and (self.verdict != "biased" or self.allowed)


def audit(regularizer: Regularizer, name: str = "kl", recipe: Recipe | None = None) -> Certificate:
    """Run the regularizer's own `penalty` on every enumerable problem and certify it.

    Args: recipe: contains the regularizer under `name`; if each batch serves one update, stale updates do not count. None:
    `default_recipe(regularizer)`, with several updates per batch and no clip. A form that the recipe refuses is still measured, and the
    reason is kept. What is `biased` here is what a recipe refuses (`refusals.bias`).
    """
    recipe = default_recipe(regularizer, name) if recipe is None else recipe
    refused = regularizer_refusal(regularizer, recipe, name)
    refusal = None if refused is None else refused.message
    measurable = refused is None or refused.biased or regularizer.placement != "link"
    found = judge(regularizer, recipe.algorithm, variance=True) if measurable else Verdict(kind="refused", reason=str(refusal))
    verdict, reason = found.kind, found.reason
    stated = regularizer.bias(Setting(recipe=recipe, where=f"regularizers.{name}", regularizer=regularizer))
    if stated is not None and verdict != "biased":
        verdict, reason = "biased", stated
    if refusal is not None and verdict != "biased":
        verdict, reason = "refused", refusal
    return Certificate(
        name=name,
        form=form(regularizer),
        measurements=found.measurements,
        verdict=verdict,
        reason=reason,
        refusal=refusal,
        allowed=regularizer.allow_biased,
    )


def form(regularizer: Regularizer) -> str:
    """The axes that determine value and gradient, in words."""
    if not isinstance(regularizer, Composed):
        return sentence(type(regularizer)) or type(regularizer).__name__
    if regularizer.placement == "link":
        return f"{format_part(regularizer.divergence)}, as the link of a preference loss"
    return (
        f"{format_part(regularizer.divergence)}, by {format_part(regularizer.estimator)}, in the {regularizer.placement}, "
        f"credit {regularizer.credit}"
    )
