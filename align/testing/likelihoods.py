"""Checks of a likelihood: a loss for each demonstrated token that does not depend on the split of the batch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood
from align.oracle.enumeration import TREE, context, setting
from align.testing.findings import Finding, Kit
from align.testing.formulas import MEND, explained

KIT = Kit("likelihood")
NAME = "unused"


def check_likelihood(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a likelihood, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def view(likelihood: Likelihood) -> tuple[TokenContext, Tensor]:
    """Forty demonstrations in float32, of one to three tokens, with only the columns that it needs; and the policy's logits."""
    ctx, leaf = context(setting(TREE), NAME, dtype=torch.float32)
    known = ctx.batch.ref_logp[NAME]  # of whichever regularizer a likelihood names
    shown = replace(
        ctx.batch,
        rewards=None,
        advantages=None,
        sampler_logp=None,
        old_logp=ctx.logp.detach(),
        teacher_logp=known,
        ref_logp=defaultdict(lambda: known),
        penalty_weights={},
        betas={},
        loss_weights=torch.full((len(ctx.logp),), 1 / len(ctx.batch.lengths)),
    )
    again = likelihood.rescaled
    rescaled = None if again is None else TREE.token_logp(leaf / again)
    return replace(ctx, batch=shown.only(likelihood.needs, likelihood), rescaled_logp=rescaled), leaf


@KIT.check("losses", "return a float32 tensor of shape [T] from ctx.logp; read no part of the batch that `needs` does not name")
def _losses(likelihood: Likelihood) -> str | None:
    """a finite float32 loss for each token, with a gradient for the policy, from only the columns in `needs`"""
    ctx, leaf = view(likelihood)
    found = likelihood.losses(ctx)
    if found.shape != ctx.logp.shape or found.dtype != torch.float32 or not found.isfinite().all():
        return f"{list(found.shape)} {found.dtype}{'' if found.isfinite().all() else ', not all finite'}, of {len(ctx.logp)} tokens"
    if not found.requires_grad:
        return "they have no gradient"
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    return None if gradient.isfinite().all() and gradient.abs().max() > 0 else "their gradient for the policy is zero, or not finite"


@KIT.check("direction", "return what is to be minimised: the negative of a likelihood")
def _direction(likelihood: Likelihood) -> str | None:
    """a step down the loss raises the probability of the demonstrations"""
    ctx, leaf = view(likelihood)
    shown = torch.arange(len(ctx.batch.lengths)) < len(ctx.batch.lengths) // 4  # a quarter of all answers
    mine = shown[ctx.batch.seq_ids]
    (gradient,) = torch.autograd.grad(likelihood.losses(ctx)[mine].sum(), leaf)
    gained = TREE.token_logp((leaf - 1e-3 * gradient).detach()) - ctx.logp.detach()
    return None if gained[mine].sum() > 0 else "it makes it less likely"


@KIT.check("any split", "compute a demonstration's loss from its own tokens only")
def _split(likelihood: Likelihood) -> str | None:
    """each token has the same loss in a micro-batch and in the whole batch"""
    ctx, _ = view(likelihood)
    whole = likelihood.losses(ctx)
    sequences = torch.arange(len(ctx.batch.lengths))[::3]
    tokens = torch.isin(ctx.batch.seq_ids, sequences)
    rescaled = None if ctx.rescaled_logp is None else ctx.rescaled_logp[tokens]
    micro = TokenContext(batch=ctx.batch.select(sequences), logp=ctx.logp[tokens], entropy=ctx.entropy[tokens], rescaled_logp=rescaled)
    same = torch.allclose(likelihood.losses(micro), whole[tokens], atol=1e-6)
    return None if same else "a micro-batch gives other numbers"


@KIT.check("explained", MEND)
def _explained(likelihood: Likelihood) -> str | None:
    """it states its objective and the meaning of the symbols"""
    return explained(likelihood)
