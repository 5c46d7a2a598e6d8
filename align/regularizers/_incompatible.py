"""Which products of the axes are refused, and why: by what the parts say of themselves. Tested over the whole product."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from align import probe
from align.divergences import Divergence
from align.estimators import Estimator

if TYPE_CHECKING:
    from align.regularizers.composed import Composed


PROBED = torch.linspace(-2, 2, 4, dtype=torch.float64)
"""Nats, beside 0: where the slope of f' is looked for."""


class Refusal(NamedTuple):
    text: str
    biased: bool = False
    """True: the form exists as published and `allow_biased` runs it. False: it has no meaning."""


def incompatible(
    divergence: Divergence, estimator: Estimator, placement: str, credit: str, *, on_policy: bool, samples: bool
) -> Refusal | None:
    """Why this combination is refused, or None.

    Args: `on_policy`: each batch serves one update; `samples`: the batch holds the policy's own rollouts, not demonstrations.
    """
    word = _word(estimator)
    if placement == "link":
        return _link(divergence, estimator, credit)
    if not (divergence.is_f_divergence or estimator.full_vocabulary):
        return Refusal(f"{type(divergence).__name__} is a function of an expectation at each state, which one sampled token does not tell: "
                       "use estimator: exact")
    if estimator.only_reverse_kl and not divergence.is_reverse_kl:
        return Refusal(f"{word} estimates KL(pi||ref) and nothing else: use estimator: sampled or exact for this divergence")
    if estimator.full_vocabulary:
        if placement == "reward":
            return Refusal("an exact divergence does not depend on the token drawn, so as a reward it is a constant without gradient: "
                           "use placement: loss, or estimator: sampled")
        if credit == "sequence":
            return Refusal("the divergence over whole answers cannot be enumerated: use credit: summed, or estimator: sampled")
    if not samples and not (estimator.full_vocabulary and credit == "local"):
        return Refusal("demonstrations are not drawn from the policy, so a sampled estimate of D(pi||ref) has no meaning on them: "
                       "use estimator: exact with credit: local")
    if placement == "loss" and credit == "summed" and estimator.only_reverse_kl:
        return Refusal(f"{word} as published is a loss of each token (local) or of the answer (sequence): "
                       "use estimator: sampled for the future term")
    if reason := estimator.refusal(placement=placement):
        return Refusal(reason)
    if bias := estimator.published_bias(placement=placement, credit=credit, on_policy=on_policy):
        return Refusal(bias, biased=True)
    return _measured_bias(divergence, estimator, placement, on_policy and samples)


def _link(divergence: Divergence, estimator: Estimator, credit: str) -> Refusal | None:
    """A link is a function of whole answers that somebody compared, whoever drew them."""
    if not divergence.is_f_divergence:
        return Refusal(f"{type(divergence).__name__} is a function of an expectation, so an answer has no score f'(u) of its own: use an "
                       "f-divergence as the link")
    scores = divergence.coefficient(PROBED)
    if torch.equal(scores, scores.sign() * scores.abs().max()):
        return Refusal(f"{type(divergence).__name__} has a constant f' on either side of 1, so a preference link would have no gradient: "
                       "use another divergence")
    if (scores.diff() < 0).any():
        return Refusal(f"{type(divergence).__name__} is not convex: f' does not increase everywhere, so a preference link would push some "
                       "preferred answers down: use another divergence")
    if credit != "local":
        return Refusal(f"credit: {credit} changes nothing: a link scores whole answers")
    if estimator.only_reverse_kl or estimator.merges:
        return Refusal(f"{_word(estimator)} changes nothing: a link is computed and not estimated; estimator: exact measures the "
                       "divergence at the answers' states, beside the loss")
    return None


def _measured_bias(divergence: Divergence, estimator: Estimator, placement: str, on_policy: bool) -> Refusal | None:
    """By enumeration: of a user's estimator as of a shipped one."""
    if estimator.full_vocabulary:
        return None
    found = probe.gradient_is(estimator, divergence, placement)
    if found != "that of this divergence":
        return Refusal(f"{_word(estimator)} in the {placement} has a gradient that is {found}: use estimator: sampled", biased=True)
    if placement == "loss" and not (estimator.weighted or on_policy):
        return Refusal(f"{_word(estimator)} in the loss is not weighed by pi/pi_old (`weighted`), so its gradient is right on-policy only: "
                       "here a batch serves several updates. Use estimator: sampled", biased=True)
    return None


def idle(regularizer: Composed, *, on_policy: bool, samples: bool) -> str | None:
    """Why a key that was given changes nothing here, or None. One that holds its default is as good as not given."""
    word = _word(regularizer.estimator)
    if regularizer.placement == "link" and (regularizer.ratio_to != "old" or regularizer.ratio_cap is not None):
        key = "ratio_to" if regularizer.ratio_to != "old" else "ratio_cap"
        return f"{key} changes nothing: a link weighs no samples"
    given = [key for key, is_given in (("ratio_to", regularizer.ratio_to != "old"), ("ratio_cap", regularizer.ratio_cap is not None))
             if is_given]
    if given and not samples:
        return f"{given[0]} changes nothing: demonstrations were not sampled, so there are no sampler log-probs and no importance weight"
    if given and not regularizer.weighs_samples:
        why = ("at a visited state the exact divergence samples nothing (credit: local)" if regularizer.full_vocabulary
               else f"{word} as published has no importance weight; estimator: sampled has")
        return f"{given[0]} changes nothing: {why}"
    if regularizer.ratio_cap is not None and on_policy and regularizer.ratio_to == "old":
        return "ratio_cap changes nothing: each batch serves one update, so pi is pi_old and every weight is 1"
    if regularizer.clamp is not None and regularizer.full_vocabulary and regularizer.placement != "link":
        return f"clamp changes nothing: {word} weighs every outcome by its probability, so no sampled token can be an outlier"
    return None


def _word(estimator: Estimator) -> str:
    return getattr(estimator, "recipe_name", type(estimator).__name__.lower())
