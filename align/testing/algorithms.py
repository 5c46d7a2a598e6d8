"""What an algorithm must be: a loss for each token that a split of the batch does not change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm
from align.enumeration import TREE, UPDATE, context, setting
from align.testing.findings import Finding, Kit
from align.testing.regularizers import select
from align.types import TokenContext

KIT = Kit("algorithm")


def check_algorithm(part: Any, /, **keys: Any) -> list[Finding]:
    """Every check of an algorithm: its name, its class with keys, or a built one."""
    return KIT.run(part, keys)


def view(a: Algorithm, moved: float = UPDATE) -> tuple[TokenContext, Tensor, Tensor | None]:
    """Forty answers in float32, the logits that gradients arrive at, and the algorithm's own advantages."""
    ctx, leaf = context(setting(TREE, moved), "unused", dtype=torch.float32)
    batch = replace(ctx.batch, advantages=None, references={}, penalty_weights={}, betas={})
    if not a.samples:
        uniform = torch.full_like(batch.loss_weights, 1 / len(batch.lengths))  # demonstrations are nobody's samples
        batch = replace(batch, rewards=None, sampler_logp=None, old_logp=None, loss_weights=uniform)
    batch = replace(batch, advantages=a.advantages(batch))
    return replace(ctx, batch=batch), leaf, batch.advantages


@KIT.check("keys", "call self.check() in __post_init__, and set epochs and minibatches to at least 1")
def _keys(a: Algorithm) -> str | None:
    """reduction, epochs and minibatches are ones that the learner knows"""
    a.check()
    return None


@KIT.check("advantages", "return a detached float32 tensor of shape [T] from batch.rewards, or None where the loss uses none")
def _advantages(a: Algorithm) -> str | None:
    """None, or finite detached numbers, one a token; of equal rewards too"""
    ctx, _, found = view(a)
    if found is None:
        return None
    if found.shape != ctx.logp.shape or found.dtype != torch.float32 or found.requires_grad or not found.isfinite().all():
        return f"{list(found.shape)} {found.dtype}, {'not ' if not found.isfinite().all() else ''}all finite, of {len(ctx.logp)} tokens"
    equal = a.advantages(replace(ctx.batch, rewards=torch.ones_like(ctx.batch.rewards)))
    return None if equal.isfinite().all() else "they are not finite where all rewards are equal"


@KIT.check("loss", "return (loss [T], statistics {name: [T]}); let gradients flow through ctx.logp or ctx.log_rho")
def _loss(a: Algorithm) -> str | None:
    """finite numbers and statistics, one a token, with a gradient through log pi"""
    for moved in (0.0, UPDATE):
        ctx, leaf, advantages = view(a, moved)
        loss, stats = a.loss(ctx, advantages)
        wrong = next((n for n, x in {"loss": loss, **stats}.items() if x.shape != ctx.logp.shape or not x.isfinite().all()), None)
        if wrong:
            return f"{wrong} is {list({'loss': loss, **stats}[wrong].shape)} or not finite, of {len(ctx.logp)} tokens"
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if not gradient.isfinite().all() or not gradient.abs().max() > 0:
            return "its gradient is zero, or not finite"
    return None


@KIT.check("direction", "return what is to be minimised: the negative of an objective")
def _direction(a: Algorithm) -> str | None:
    """on-policy, a step down the loss makes tokens of higher advantage (or demonstrated ones) likelier"""
    ctx, leaf, advantages = view(a, 0.0)
    loss, _ = a.loss(ctx, advantages)
    (gradient,) = torch.autograd.grad((ctx.batch.loss_weights * loss).sum(), leaf)
    wanted = ctx.batch.loss_weights * (torch.ones_like(ctx.logp) if advantages is None else advantages)
    moved = TREE.token_logp((leaf - 1e-2 * gradient).detach()) - ctx.logp.detach()
    return None if (wanted * moved).sum() > 0 else "it makes them less likely"


@KIT.check("any split", "let nothing but a sequence's own tokens enter its loss: what the batch decides belongs in `advantages`")
def _split(a: Algorithm) -> str | None:
    """micro-batches give each token what the whole batch gives it"""
    ctx, _, advantages = view(a)
    whole, _ = a.loss(ctx, advantages)
    micro, tokens = select(ctx, torch.arange(0, len(ctx.batch.lengths), 3))
    part, _ = a.loss(micro, None if advantages is None else advantages[tokens])
    return None if torch.allclose(part, whole[tokens], atol=1e-6) else "a micro-batch gives other numbers"


@KIT.check("explained", "return texts from formula() and symbols(), or leave them out")
def _explained(a: Algorithm) -> str | None:
    """it says what it maximises, and what the symbols stand for"""
    texts = [a.formula(), *a.symbols(), *a.symbols().values()]
    return None if all(isinstance(t, str) and t.strip() for t in texts) else "a formula or symbol is no text"
