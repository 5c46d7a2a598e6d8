"""Which products of the axes are refused, and why. Tested over the whole product."""

from __future__ import annotations

from typing import NamedTuple

from align.divergences import Divergence
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.estimators.k1 import K1
from align.estimators.k2 import K2
from align.estimators.k3 import K3


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
    word = type(estimator).__name__.lower()
    if not (divergence.is_f_divergence or estimator.full_vocabulary):
        return Refusal(f"{type(divergence).__name__} is a function of an expectation at each state, which one sampled token does not tell: "
                       "use estimator: exact")
    if estimator.only_reverse_kl and not isinstance(divergence, ReverseKl):
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
    return _bias(estimator, placement, on_policy)


def _bias(estimator: Estimator, placement: str, on_policy: bool) -> Refusal | None:
    """The published forms whose gradient is not that of KL(pi||ref) (Tang and Munos 2506.09477; Liu et al. 2510.01555)."""
    if placement == "loss":
        if isinstance(estimator, K1):
            return Refusal("k1 in the loss has expected gradient zero: noise, no penalty. Use estimator: sampled, or "
                           "placement: reward", biased=True)
        if isinstance(estimator, K3):
            return Refusal("k3 in the loss descends the forward KL(ref||pi), not KL(pi||ref). Use estimator: sampled, or say "
                           "divergence: forward_kl with estimator: sampled", biased=True)
        if isinstance(estimator, K2) and not on_policy:
            return Refusal("k2 in the loss has the gradient of KL(pi||ref) on-policy only, and here a batch serves several updates. "
                           "Use estimator: sampled", biased=True)
    elif isinstance(estimator, K2 | K3):
        return Refusal(f"{type(estimator).__name__.lower()} in the reward does not have the gradient of KL(pi||ref): use estimator: "
                       "sampled or k1", biased=True)
    return None
