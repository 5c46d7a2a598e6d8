"""Which products of divergence, estimator, placement and credit have no meaning, or a bias, by what the parts state of themselves."""

from __future__ import annotations

from align.divergences import Divergence, StateFunctional
from align.estimators import Estimator
from align.oracle import estimator_bias


def meaningless(divergence: Divergence, estimator: Estimator, placement: str, credit: str, *, samples: bool) -> str | None:
    """Why this product has no meaning, or None. `samples`: a batch holds the policy's own rollouts, not demonstrations."""
    if placement == "link":
        return divergence.no_link or _idle_in_a_link(estimator, credit)
    word = word_of(estimator)
    if isinstance(divergence, StateFunctional) and (estimator.merges or not estimator.full_vocabulary):
        return "the divergence is a function of both whole distributions at a state: use estimator: exact"
    if not (divergence.is_f_divergence or estimator.full_vocabulary):
        return (
            f"{type(divergence).__name__} is a function of an expectation at each state, which one sampled token does not tell: use "
            "estimator: exact"
        )
    if estimator.only_reverse_kl and not divergence.is_reverse_kl:
        return f"{word} estimates KL(pi||ref) and nothing else: use estimator: sampled or exact for this divergence"
    if estimator.full_vocabulary and placement == "reward":
        return (
            "an exact divergence does not depend on the token drawn, so as a reward it is a constant without gradient: use placement: "
            "loss, or estimator: sampled"
        )
    if estimator.full_vocabulary and credit == "sequence":
        return "the divergence over whole answers cannot be enumerated: use credit: summed, or estimator: sampled"
    if not samples and not (estimator.full_vocabulary and credit == "local"):
        return (
            "demonstrations are not drawn from the policy, so a sampled estimate of D(pi||ref) has no meaning on them: use estimator: "
            "exact with credit: local"
        )
    if placement == "loss" and credit == "summed" and estimator.only_reverse_kl:
        return (
            f"{word} as published is a loss of each token (local) or of the answer (sequence): use estimator: sampled for the future term"
        )
    return None


def bias_of(divergence: Divergence, estimator: Estimator, placement: str, credit: str, *, on_policy: bool) -> str | None:
    """What is wrong with the gradient of a product that has a meaning, or None: as its estimator says, else by enumeration."""
    if published := estimator.published_bias(placement=placement, credit=credit, on_policy=on_policy):
        return published
    if estimator.full_vocabulary:
        return None
    word, found = word_of(estimator), estimator_bias.gradient_is(estimator, divergence, placement)
    if found != estimator_bias.OWN:
        return f"{word} in the {placement} has a gradient that is {found}: use estimator: sampled"
    stated = type(estimator).published_bias is not Estimator.published_bias
    if credit != "local" and not stated and estimator_bias.value_is(estimator, divergence) != "unbiased":
        return (
            f"{word} has a biased value, and with credit: {credit} it is what earlier tokens answer for: use estimator: sampled, or "
            "credit: local"
        )
    if not (estimator.weighted or on_policy) and (placement == "loss" or (credit != "local" and not stated)):
        return (
            f"{word} in the {placement} is not weighed by pi/pi_old (`weighted`), so its gradient is right on-policy only: here a batch "
            "serves several updates. Use estimator: sampled"
        )
    return None


def word_of(estimator: Estimator) -> str:
    """What a message calls it."""
    return getattr(estimator, "recipe_name", type(estimator).__name__.lower())


def _idle_in_a_link(estimator: Estimator, credit: str) -> str | None:
    """A link is a function of whole answers that were compared, whichever policy drew them."""
    if credit != "local":
        return f"credit: {credit} changes nothing: a link scores whole answers"
    if estimator.only_reverse_kl or estimator.merges:
        return (
            f"{word_of(estimator)} changes nothing: a link is computed and not estimated; estimator: exact measures the divergence at "
            "the answers' states, beside the loss"
        )
    return None
