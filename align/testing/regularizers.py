"""Checks of a regularizer: a loss, reward or link with its value, independent of the batch's split, with the claimed gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.audit import audit
from align.audit.default_recipe import default_recipe
from align.contexts import TokenContext
from align.oracle.enumeration import TREE, UPDATE, context, expectation, setting
from align.oracle.measure import claimed_divergence
from align.regularizers import ALLOW, Penalty, Regularizer
from align.testing.divergences import first
from align.testing.findings import Finding, Kit, shown

KIT = Kit("regularizer")
NAME = "checked"


def check_regularizer(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a regularizer, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def view(r: Regularizer, dtype: torch.dtype = torch.float32, drift: float = UPDATE) -> tuple[TokenContext, Tensor]:
    """Forty answers, drawn one update ago, and the logits that receive the gradients."""
    return context(setting(TREE, drift), NAME, claimed_divergence(r) if r.full_vocabulary else None, r.outcomes, dtype)


def felt(penalty: Penalty) -> Tensor:
    """The loss, reward or link of a penalty: [T], or [S] for a link."""
    return next(x for x in (penalty.loss, penalty.reward, penalty.link) if x is not None)


def alike(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> bool:
    """Whether both values and both losses (rewards, links) agree to float32 precision."""
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True))


def select(ctx: TokenContext, sequences: Tensor) -> tuple[TokenContext, Tensor]:
    """A micro-batch of these sequences, and its tokens."""
    tokens = torch.isin(ctx.batch.seq_ids, sequences)
    exact = {name: x[tokens] for name, x in ctx.exact.items()}
    return TokenContext(batch=ctx.batch.select(sequences), logp=ctx.logp[tokens], entropy=ctx.entropy[tokens], exact=exact), tokens


@KIT.check("penalty", "return Penalty(value=..., loss=...), Penalty(value=..., reward=...) or Penalty(value=..., link=..., log_ratio=...)")
def _penalty(r: Regularizer) -> str | None:
    """exactly one of loss, reward and link, as in `placement`: one number per token, or for a link one per answer with its log-ratio;
    value, reward and log-ratio detached, loss and link differentiable"""
    ctx, _ = view(r)
    p = r.penalty(ctx, NAME)
    given = [name for name in ("loss", "reward", "link") if getattr(p, name) is not None]
    if given != [r.placement]:
        return f"placement is {r.placement}, and the penalty has {' and '.join(given) or 'none'}"
    answers, tokens = ctx.batch.lengths.shape, ctx.logp.shape
    parts = {"value": (p.value, tokens), r.placement: (felt(p), answers if p.link is not None else tokens)}
    if p.link is not None:
        if p.log_ratio is None:
            return "a link without its log_ratio"
        parts["log_ratio"] = (p.log_ratio, answers)
    if any(x.shape != wanted or x.dtype != torch.float32 for x, wanted in parts.values()):
        sizes = (f"{name} {list(x.shape)} {x.dtype}" for name, (x, _) in parts.items())
        return f"{', '.join(sizes)}, of {len(ctx.logp)} tokens in {len(ctx.batch.lengths)} answers"
    if any(parts[name][0].requires_grad for name in parts if name not in ("loss", "link")):
        return "value, reward or log-ratio carries a gradient"
    return None if p.reward is not None or felt(p).requires_grad else f"the {r.placement} has no gradient"


@KIT.check("finite", "clamp the log-ratio before its exponential")
def _finite(r: Regularizer) -> str | None:
    """value, loss and gradient are finite, also if policy and reference differ by 60 nats in either direction"""
    near, tokens = setting(TREE, UPDATE), torch.arange(TREE.vocabulary)
    far = replace(
        near,
        reference=near.reference - 60.0 * (tokens == 0),
        policy=near.policy - 60.0 * (tokens == 1),
        old=near.behaviour - 60.0 * (tokens == 1),
    )
    ctx, leaf = context(far, NAME, claimed_divergence(r) if r.full_vocabulary else None, r.outcomes, torch.float32)
    p = r.penalty(ctx, NAME)
    loss = felt(p) if p.reward is None else torch.exp(ctx.log_rho) * p.reward
    (gradient,) = torch.autograd.grad(loss.sum() if p.link is not None else expectation(ctx.batch, loss), leaf)
    return first(
        None if x.isfinite().all() else f"{name} is {shown(x[~x.isfinite()][0])} somewhere"
        for name, x in (("value", p.value), ("loss", loss), ("gradient", gradient))
    )


@KIT.check("digits", "use expm1 and log1p, or compute in float64 and cast back")
def _digits(r: Regularizer) -> str | None:
    """float32 and float64 agree to 1e-4"""
    one, two = (r.penalty(view(r, dtype)[0], NAME) for dtype in (torch.float32, torch.float64))
    error = max((a.double() - b.double()).abs().max() / (1e-3 + b.abs().max()) for a, b in ((one.value, two.value), (felt(one), felt(two))))
    return None if error < 1e-4 else f"they differ by {error:.1e}, relative"


@KIT.check("any split", "compute a sequence's penalty from its own tokens only: means over the batch belong in a weighting")
def _split(r: Regularizer) -> str | None:
    """each token has the same penalty in a micro-batch and in the whole batch"""
    ctx, _ = view(r)
    whole = r.penalty(ctx, NAME)
    count = len(ctx.batch.lengths)
    for part in (torch.arange(0, count, 3), torch.arange(count - 1, count)):
        micro, tokens = select(ctx, part)
        found = r.penalty(micro, NAME)
        own = felt(whole)[part if whole.link is not None else tokens]
        if not alike((found.value, felt(found)), (whole.value[tokens], own)):
            return "a micro-batch gives other numbers"
    return None


@KIT.check("weighed", "multiply value, loss and reward, or the summands of a link's log-ratio, by ctx.batch.penalty_weights[name]")
def _weighed(r: Regularizer) -> str | None:
    """with a weighting, doubled weights double the penalty, or the log-ratio of a link"""
    if r.weighting is None:
        return None
    ctx, _ = view(r)
    doubled = replace(ctx.batch, penalty_weights={NAME: 2 * ctx.batch.penalty_weights[NAME]})
    one, two = r.penalty(ctx, NAME), r.penalty(replace(ctx, batch=doubled), NAME)
    if one.log_ratio is not None and two.log_ratio is not None:
        return None if torch.allclose(two.log_ratio, 2 * one.log_ratio, atol=1e-6) else "they are not"
    return None if alike((two.value, felt(two)), (2 * one.value, 2 * felt(one))) else "they are not"


@KIT.check("its own entries", "read references, weights and ctx.exact by the `name` argument of penalty")
def _own(r: Regularizer) -> str | None:
    """other regularizers in the batch change nothing"""
    ctx, _ = view(r)
    b = ctx.batch
    other = b.ref_logp[NAME] - 1
    weights = {"first": b.penalty_weights[NAME] * 3, **b.penalty_weights}
    crowd = replace(b, ref_logp={"first": other, **b.ref_logp}, penalty_weights=weights)
    exact = {"first": ctx.exact[NAME] * 5, **ctx.exact} if ctx.exact else {}
    one, two = r.penalty(ctx, NAME), r.penalty(replace(ctx, batch=crowd, exact=exact), NAME)
    return None if torch.equal(one.value, two.value) and torch.equal(felt(one), felt(two)) else "they do"


@KIT.check("repeats", "keep no state between calls and draw no random numbers: a batch may be split and repeated")
def _repeats(r: Regularizer) -> str | None:
    """the same batch has the same penalty"""
    ctx, _ = view(r)
    one, two = r.penalty(ctx, NAME), r.penalty(ctx, NAME)
    return None if torch.equal(one.value, two.value) and torch.equal(felt(one), felt(two)) else "it differs from call to call"


@KIT.check("gradient", "run `align audit` on it; if it is biased on purpose, `bias` must say so")
def _gradient(r: Regularizer) -> str | None:
    """by enumeration value and gradient are those of the divergence it names, on- and off-policy, or its `bias` or `refuse` says why not"""
    for on_policy in (True, False):
        certificate = audit(r, recipe=default_recipe(r, on_policy=on_policy))
        stated = certificate.allowed or (certificate.refusal is not None and certificate.refusal != certificate.reason + ALLOW)
        if certificate.verdict == "biased" and not stated:
            return certificate.reason
    return None
