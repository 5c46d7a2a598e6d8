"""Checks of an estimator: elementwise functions with the gradient of the divergence, or a form that recipes refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.audit import audit
from align.audit.default_recipe import default_recipe
from align.config.nodes import build_part
from align.divergences.reverse_kl import ReverseKl
from align.estimators import Estimator
from align.oracle.enumeration import ONE_TOKEN, setting
from align.testing.divergences import digits, elementwise, first, holds
from align.testing.findings import Finding, Kit

KIT = Kit("estimator")


def check_estimator(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of an estimator of KL(pi||ref), given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def _methods(e: Estimator) -> dict[str, Callable[[Tensor], Tensor]]:
    return {name: partial(getattr(e, name), ReverseKl()) for name in ("value", "grad_weight", "reward")}


@KIT.check("elementwise", "write value, grad_weight and reward with tensor operations on log_u only, none in place")
def _elementwise(e: Estimator) -> str | None:
    """every method keeps shape and dtype, also of an empty tensor, is elementwise, and does not change its input"""
    return first(elementwise(method, name) for name, method in _methods(e).items())


@KIT.check("finite", "use expm1 and log1p, and put products of powers in one exponent")
def _finite(e: Estimator) -> str | None:
    """every method is finite in float32 for |log u| up to 20"""
    return first(holds(method, name) for name, method in _methods(e).items())


@KIT.check("digits", "near u = 1 a difference of large terms loses its digits: use expm1 and log1p, or compute in float64 and cast back")
def _digits(e: Estimator) -> str | None:
    """every method in float32 agrees with float64 to 1e-3, near u = 1 too"""
    return first(digits(method, name) for name, method in _methods(e).items())


@KIT.check(
    "gradient", "`grad_weight`, the factor of grad log pi, is f'(u) - f'(1), as inherited; set `weighted = True` for off-policy samples"
)
def _gradient(e: Estimator) -> str | None:
    """by enumeration the gradient is that of the divergence, on- and off-policy: for a shipped one, if a recipe runs it without
    allow_biased; for your own, always"""
    published = type(e).__module__.startswith("align.estimators.")
    for placement in ("loss", "reward"):
        regularizer = build_part("regularizer", {"coefficient": 1.0, "placement": placement}, placement)
        object.__setattr__(regularizer, "estimator", e)
        for on_policy in (True, False):
            certificate = audit(regularizer, recipe=default_recipe(regularizer, on_policy=on_policy))
            if certificate.verdict == "biased" and (certificate.refusal is None or not published):
                return f"in the {placement}: {certificate.reason}"
    return None


@KIT.check("outcomes", "map both distributions in the same way, independent of the policy, and merge by adding probabilities")
def _outcomes(e: Estimator) -> str | None:
    """outcomes merge tokens in a fixed way: probabilities add up to 1, and merging is linear in the distribution"""
    at = setting(ONE_TOKEN)
    reference = torch.log_softmax(at.reference, -1)
    policies = [torch.log_softmax(logits, -1) for logits in (at.policy, ONE_TOKEN.test_logits(5))]
    mixed = torch.logaddexp(*policies) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    merged, other, both = (e.outcomes(p, reference) for p in (*policies, mixed))
    if any((x.exp().sum(-1) - 1).abs().max() > 1e-9 for pair in (merged, other, both) for x in pair):
        return "their probabilities do not add up to 1"
    if (merged[0].exp() / 2 + other[0].exp() / 2 - both[0].exp()).abs().max() > 1e-9 or not torch.equal(merged[1], other[1]):
        return "which tokens are merged depends on the policy"
    return None
