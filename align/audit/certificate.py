"""Certifies whether a regularizer has the gradient of the divergence it names, and if not, which gradient it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from align.audit.alone import alone
from align.audit.links import measure_links
from align.audit.measure import Measurement, claimed, measure_all
from align.config.docstrings import format_part, sentence
from align.config.refusals import judged
from align.config.schema import Recipe
from align.oracle import estimator_bias
from align.oracle.enumeration import ONE_TOKEN, TREE
from align.regularizers import Regularizer
from align.regularizers.composed import Composed

EXACT = 1e-6
"""Relative tolerance: enumeration in float64 is accurate to 1e-14, a float32 part to 1e-7; a bias is at least 1e-2."""

NO_CLAIM = "it names no divergence, so there is nothing to compare it with"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    name: str
    form: str
    """The regularizer in words."""
    measurements: tuple[Measurement, ...]
    verdict: str
    """Of the gradient: `exact`, `bounded` (exact except where `ratio_cap` or `clamp` cuts), `biased`, `no claim` (no divergence named), or
    `refused` (not biased, but a recipe refuses it)."""
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
    `alone(regularizer)`, with several updates per batch. A form that the recipe refuses is still measured, and the reason is kept.
    """
    recipe = alone(regularizer, name) if recipe is None else recipe
    found = judged(regularizer, recipe, name)
    refusal = None if found is None else found.told
    if regularizer.placement == "link":
        return _of_link(regularizer, name, refusal)
    on_policy = _when(recipe, regularizer.placement)
    measurements, unbounded = measure_all(regularizer), _unbounded(regularizer)
    verdict, reason = _verdict(regularizer, measurements, on_policy)
    if verdict == "biased" and unbounded != regularizer and _verdict(unbounded, measure_all(unbounded), on_policy)[0] == "exact":
        worst = max((m for m in measurements if not (on_policy and m.stale)), key=lambda m: m.error)
        verdict, reason = "bounded", f"exact but for what ratio_cap or clamp cuts ({_size(worst)})"
    if refusal is not None and verdict != "biased":
        verdict, reason = "refused", refusal
    return Certificate(
        name=name,
        form=form(regularizer),
        measurements=measurements,
        verdict=verdict,
        reason=reason,
        refusal=refusal,
        allowed=regularizer.allow_biased,
    )


def _of_link(regularizer: Regularizer, name: str, refusal: str | None) -> Certificate:
    divergence, measurements = claimed(regularizer), ()
    if refusal is not None:
        verdict, reason = "refused", refusal
    elif divergence is None:
        verdict, reason = "no claim", NO_CLAIM
    else:
        measurements = measure_links(regularizer, divergence)
        worst = max(m.error for m in measurements)
        at = "at the policy that is optimal for a reward, preferences by that reward"
        exact = worst <= EXACT
        verdict, reason = ("exact", f"{at} leave no gradient") if exact else ("biased", f"{at} still move it (gradient {worst:.1%})")
    return Certificate(
        name=name,
        form=form(regularizer),
        measurements=measurements,
        verdict=verdict,
        reason=reason,
        refusal=refusal,
        allowed=refusal is None and regularizer.allow_biased,
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


def _unbounded(regularizer: Regularizer) -> Regularizer:
    if not isinstance(regularizer, Composed):
        return regularizer
    return replace(regularizer, ratio_cap=None, beyond_cap="truncate", clamp=None)


def _when(recipe: Recipe, placement: str) -> str | None:
    """Why the regularizer is only evaluated on-policy, or None if it is also evaluated after a stale update."""
    if recipe.algorithm.on_policy:
        return "on-policy, as this recipe runs it"
    if recipe.algorithm.penalises_on_policy(placement):
        return "at pi_old: a critic learns it from the token rewards, taken once a batch, before its first update"
    return None


def _verdict(regularizer: Regularizer, measurements: Sequence[Measurement], on_policy: str | None) -> tuple[str, str]:
    if claimed(regularizer) is None:
        return "no claim", NO_CLAIM
    at = {(m.problem, m.stale): m for m in measurements}
    wrong = {key: not m.error <= EXACT for key, m in at.items()}
    one, tree, stale_one, stale_tree = ((p.name, stale) for stale in (False, True) for p in (ONE_TOKEN, TREE))
    if wrong[one]:
        return "biased", f"its gradient is {_instead(regularizer)} ({_size(at[one])})"
    if wrong[tree]:
        return "biased", f"right for a single token, but not for answers of several ({_size(at[tree])})"
    of = "between distributions with merged outcomes, " if regularizer.merges else ""
    if on_policy:
        return "exact", f"{of}{on_policy}"
    if wrong[stale_one]:
        return "biased", f"exact on-policy only: after a stale update its samples are not weighed by pi/pi_old ({_size(at[stale_one])})"
    if wrong[stale_tree]:
        return "biased", f"exact on-policy only: after a stale update each token has its own ratio alone ({_size(at[stale_tree])})"
    return "exact", f"{of}on-policy and after a stale update"


def _instead(regularizer: Regularizer) -> str:
    if not isinstance(regularizer, Composed):
        return "not that of the divergence it names"
    found = estimator_bias.gradient_is(regularizer.estimator, regularizer.divergence, regularizer.placement)
    return "that of its `coefficient`, which is not f' - f'(1)" if found == "that of this divergence" else found


def _size(m: Measurement) -> str:
    return f"relative error {m.error:.1%}" + ("" if math.isnan(m.cosine) else f", cosine {m.cosine:.2f}")
