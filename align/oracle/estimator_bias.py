"""Measures what an estimator's value and gradient are, by enumeration of one small pair of distributions in float64.

Nothing depends on names, so a user's own estimator or divergence is described like a shipped one.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from align.config import registry
from align.config.docstrings import keys
from align.divergences import Divergence, StateFunctional
from align.estimators import Estimator
from align.oracle.divergence_check import CLOSE, elementwise_fault, grid

POLICY = (0.10, 0.20, 0.30, 0.25, 0.15)
REFERENCE = (0.25, 0.05, 0.20, 0.10, 0.40)
EXACT = 1e-9
"""Relative tolerance: enumeration in float64 is accurate to 1e-15, and other divergences differ by at least 1e-2."""
FAR = 1e-6
"""Relative tolerance far from the reference, to the terms of a difference."""
OWN = "that of this divergence"
"""What `gradient_is` says of an estimator without bias."""


def value_is(estimator: Estimator, divergence: Divergence) -> str:
    """Whether `E_pi[value] = D_f(pi||ref)`."""
    if estimator.merges:
        return "at most that of the divergence (tokens are merged), exact"
    if isinstance(divergence, StateFunctional):
        return "exact, of both whole distributions at a state (torch on whole rows; it has no kernel)"
    policy, reference, log_u = _pair()
    exact = (reference * divergence.bregman(log_u)).sum()
    estimate = (policy * estimator.value(divergence, log_u)).sum()
    return "unbiased" if torch.isclose(estimate, exact, rtol=EXACT, atol=0.0) else "biased"


def gradient_is(estimator: Estimator, divergence: Divergence, placement: str) -> str:
    """Names the function with this expected on-policy gradient: this divergence, none (zero), a multiple of a shipped one, or unknown."""
    if estimator.merges:
        return f"{OWN} between the merged distributions"
    if isinstance(divergence, StateFunctional):
        return OWN
    _, _, log_u = _pair()
    weights = {"loss": estimator.grad_weight, "reward": estimator.reward}
    gradient = _score_mean(weights[placement](divergence, log_u))
    own = _score_mean(divergence.grad_weight(log_u))
    if _same(gradient, own):
        return OWN
    if gradient.abs().max() < EXACT * own.abs().max():
        return "zero: it is noise, not a penalty"
    for name, other in _shipped_gradients().items():
        scale = (gradient @ other / (other @ other)).item()
        if _same(gradient, scale * other):
            times = "" if abs(scale - 1) < EXACT else f"{scale:.4g} × "
            return f"{times}that of {name}, not of this divergence"
    return "of no divergence that ships with align"


@functools.cache
def _shipped_gradients() -> dict[str, Tensor]:
    """By name, the gradient [V] of each shipped divergence that is complete without keys."""
    parts = {name: registry.resolve("divergence", name, "") for name in registry.shipped("divergence")}
    built = {name: part() for name, part in parts.items() if not any(key.required for key in keys(part))}
    return {name: _score_mean(part.grad_weight(_pair()[2])) for name, part in built.items() if not isinstance(part, StateFunctional)}


def far_fault(estimator: Estimator, divergence: Divergence, placement: str) -> str | None:
    """Where an estimator of sampled tokens, right on small log-ratios, is wrong for |log u| up to 20 nats; None if it is nowhere.

    Its mean is that of the divergence for every pair of policies only if its weight is `grad_weight` plus a constant, whose score has
    mean 0, and its value is `khat` plus a multiple of 1 - 1/u, which has mean 0.
    """
    x = grid()
    weight = {"loss": estimator.grad_weight, "reward": estimator.reward}[placement]
    found = [("gradient", weight(divergence, x), divergence.grad_weight(x), torch.ones_like(x))]
    if estimator.published_value is None:
        found.append(("value", estimator.value(divergence, x), divergence.khat(x), -torch.expm1(-x)))
    at = int((x - 1).abs().argmin())
    for what, is_, wanted, free in found:
        rest = (is_[at] - wanted[at]) / free[at] * free
        wrong = ~((is_ - wanted - rest).abs() <= FAR * (is_.abs() + wanted.abs() + rest.abs()))
        if wrong.any():
            first = int(torch.where(wrong, x.abs(), torch.inf).argmin())
            return (
                f"its {what} is not that of the divergence far from the reference: at log u = {x[first].item():.3g} it is "
                f"{is_[first].item():.4g} where {(wanted + rest)[first].item():.4g} is right"
            )
    near = x[x.abs() <= CLOSE]
    terms = divergence.f(near).abs().max().item()
    for what, part in (("gradient", weight), ("value", estimator.value)):
        text = elementwise_fault(lambda log_u, part=part: part(divergence, log_u), near, terms)
        if text is not None:
            return f"its {what} depends on more than a token's log-ratio: it {text}"
    return None


def _pair() -> tuple[Tensor, Tensor, Tensor]:
    policy, reference = torch.tensor(POLICY, dtype=torch.float64), torch.tensor(REFERENCE, dtype=torch.float64)
    return policy, reference, (policy / reference).log()


def _score_mean(weight: Tensor) -> Tensor:
    """E_pi[weight * d log pi / dz] over the logits z."""
    policy, _, _ = _pair()
    return policy * (weight - (policy * weight).sum())


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= EXACT * b.abs().max())
