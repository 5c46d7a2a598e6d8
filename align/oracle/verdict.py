"""Judges a regularizer by running its own code: `audit` prints the verdict, and a recipe refuses what is biased."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from align.algorithms import Algorithm
from align.divergences import Divergence
from align.oracle import estimator_bias
from align.oracle.divergence_check import Fault, fault
from align.oracle.enumeration import ONE_TOKEN, TREE
from align.oracle.links import measure_links
from align.oracle.measure import Measurement, claimed_divergence, measure_all
from align.regularizers import Regularizer
from align.regularizers.composed import Composed

EXACT = 1e-6
"""Relative tolerance: enumeration in float64 is accurate to 1e-14, a float32 part to 1e-7; a bias is at least 1e-2."""
NO_CLAIM = "it names no divergence, so there is nothing to compare it with"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    kind: str
    """`exact`, `bounded` (exact except where a bound cuts: `ratio_cap`, `clamp`, the surrogate's), `biased` or `no claim`."""
    reason: str
    measurements: tuple[Measurement, ...] = ()


def judge(regularizer: Regularizer, algorithm: Algorithm, *, variance: bool = False) -> Verdict:
    """The verdict on a regularizer under this algorithm: its own surrogate, clip, critic and number of updates.

    In order: the divergence it names (`divergence_check.fault`), gradient and value on-policy, both after a stale update where the
    algorithm makes several updates of a batch, and the estimator up to 20 nats from the reference (`estimator_bias.far_fault`). The value
    of an unweighted published estimator is judged on-policy only, and where the estimator declares a `published_value` only if a
    coefficient follows it.

    Args: variance: also measure variances, which takes longer.
    """
    if variance:
        return _measured_verdict(regularizer, algorithm, variance)
    if isinstance(regularizer, Composed):
        regularizer = replace(regularizer, allow_biased=False)  # which changes no number, so both cases share an entry
    try:
        hash((regularizer, algorithm))
    except TypeError:  # a user's part may have a field that cannot be hashed
        return _measured_verdict(regularizer, algorithm, variance)
    return _cached(regularizer, algorithm, variance)


def _measured_verdict(regularizer: Regularizer, algorithm: Algorithm, variance: bool) -> Verdict:
    divergence = claimed_divergence(regularizer)
    if divergence is None and not variance:
        return Verdict(kind="no claim", reason=NO_CLAIM)
    wrong = None if divergence is None else _fault(divergence)
    if regularizer.placement == "link":
        if divergence is None:
            return Verdict(kind="no claim", reason=NO_CLAIM)
        found = _of_link(measure_links(regularizer, divergence))
        if wrong is not None:
            return replace(found, kind="biased", reason=wrong.text)
        free = unbounded(regularizer)
        if found.kind == "biased" and free != regularizer and _of_link(measure_links(free, divergence)).kind == "exact":
            return replace(found, kind="bounded", reason=f"exact but for what clamp cuts ({found.reason})")
        return found
    stale = variance or _when(algorithm, regularizer.placement) is None
    measurements = measure_all(regularizer, algorithm, variance=variance, stale=stale)
    if divergence is None:
        return Verdict(kind="no claim", reason=NO_CLAIM, measurements=measurements)
    if wrong is not None:
        return Verdict(kind="biased", reason=wrong.text, measurements=measurements)
    kind, reason = _of(regularizer, measurements, algorithm)
    if kind == "biased":
        free = unbounded(regularizer)
        if _of(free, measure_all(free, algorithm, cut=False, variance=False, stale=stale), algorithm)[0] == "exact":
            on_policy = _when(algorithm, regularizer.placement)
            worst = max((m for m in measurements if not (on_policy and m.stale)), key=lambda m: m.error)
            cuts = "ratio_cap or clamp cuts" if free != regularizer else f"the clip of surrogate {algorithm.surrogate.recipe_name} cuts"
            kind, reason = "bounded", f"exact but for what {cuts} ({_size(worst)})"
    if kind != "biased" and (far := _far(regularizer)) is not None:
        kind, reason = "biased", far
    return Verdict(kind=kind, reason=reason, measurements=measurements)


_cached = lru_cache(maxsize=4096)(_measured_verdict)
_cached_fault = lru_cache(maxsize=256)(fault)


def _fault(divergence: Divergence) -> Fault | None:
    try:
        hash(divergence)
    except TypeError:
        return fault(divergence)
    return _cached_fault(divergence)


def lowers(regularizer: Regularizer, algorithm: Algorithm) -> bool:
    """Whether a step against its gradient lowers the divergence it names, to first order, on every enumerated problem."""
    return all(m.cosine > 0 for m in judge(regularizer, algorithm).measurements)


def _far(regularizer: Regularizer) -> str | None:
    """What the enumerated problems, whose policies are a few nats apart, do not show of an estimator."""
    if not isinstance(regularizer, Composed) or regularizer.full_vocabulary:
        return None
    return estimator_bias.far_fault(regularizer.estimator, regularizer.divergence, regularizer.placement)


def unbounded(regularizer: Regularizer) -> Regularizer:
    """The same regularizer without the bounds of its importance weights and log-ratios."""
    if not isinstance(regularizer, Composed):
        return regularizer
    return replace(regularizer, ratio_cap=None, beyond_cap="truncate", clamp=None)


def _of_link(measurements: Sequence[Measurement]) -> Verdict:
    worst = max(m.error for m in measurements)
    at = "at the policy that is optimal for a reward, preferences by that reward"
    exact = worst <= EXACT
    reason = f"{at} leave no gradient" if exact else f"{at} still move it (gradient {worst:.1%})"
    return Verdict(kind="exact" if exact else "biased", reason=reason, measurements=tuple(measurements))


def _when(algorithm: Algorithm, placement: str) -> str | None:
    """Why the regularizer is only evaluated on-policy, or None if it is also evaluated after a stale update."""
    if algorithm.on_policy:
        return "on-policy, as this recipe runs it"
    if algorithm.penalises_on_policy(placement):
        return "at pi_old: a critic learns it from the token rewards, taken once a batch, before its first update"
    return None


def _of(regularizer: Regularizer, measurements: Sequence[Measurement], algorithm: Algorithm) -> tuple[str, str]:
    on_policy = _when(algorithm, regularizer.placement)
    at = {(m.problem, m.stale): m for m in measurements}
    wrong = {key: not m.error <= EXACT for key, m in at.items()}
    one, tree, stale_one, stale_tree = ((p.name, stale) for stale in (False, True) for p in (ONE_TOKEN, TREE))
    if wrong[one]:
        return "biased", f"its gradient is {_remedy(regularizer)} ({_size(at[one])})"
    if wrong[tree]:
        return "biased", f"right for a single token, but not for answers of several ({_size(at[tree])})"
    published = _published_value(regularizer)
    if published is None and (off := _largest_error([at[one], at[tree]])):
        return "biased", f"its gradient is exact, but its value is not that of the divergence ({off})"
    of = "between distributions with merged outcomes, " if regularizer.merges else ""
    value = f"; its value is {published}" if published else ""
    if on_policy:
        return "exact", f"{of}{on_policy}{value}"
    if wrong[stale_one]:
        where = _size(at[stale_one])
        return "biased", f"exact on-policy only: after a stale update its samples are not weighed by pi/pi_old ({where})"
    if wrong[stale_tree]:
        return "biased", f"exact on-policy only: after a stale update each token has its own ratio alone ({_size(at[stale_tree])})"
    if _weighs_value(regularizer) and (off := _largest_error([at[stale_one], at[stale_tree]])):
        return "biased", f"its gradient is exact, but after a stale update its value is not that of the divergence ({off})"
    return "exact", f"{of}on-policy and after a stale update{value}"


def _published_value(regularizer: Regularizer) -> str | None:
    """What the published value is instead of the divergence's, if nothing in training follows it."""
    if not isinstance(regularizer, Composed) or regularizer.coefficient.listens or regularizer.coefficient.listens_by_prompt:
        return None
    return regularizer.estimator.published_value


def _weighs_value(regularizer: Regularizer) -> bool:
    return not isinstance(regularizer, Composed) or regularizer.estimator.weighted


def _largest_error(measurements: Sequence[Measurement]) -> str | None:
    worst = max(measurements, key=lambda m: math.inf if math.isnan(m.value_bias) else abs(m.value_bias))
    return None if abs(worst.value_bias) <= EXACT else f"bias {worst.value_bias:+.1%}"


def _remedy(regularizer: Regularizer) -> str:
    if not isinstance(regularizer, Composed):
        return "not that of the divergence it names"
    found = estimator_bias.gradient_is(regularizer.estimator, regularizer.divergence, regularizer.placement)
    return "not that of the divergence it names" if found == estimator_bias.OWN else found


def _size(m: Measurement) -> str:
    return f"relative error {m.error:.1%}" + ("" if math.isnan(m.cosine) else f", cosine {m.cosine:.2f}")
