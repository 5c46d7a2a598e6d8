"""What each regularizer takes from each token of a batch, for people who read answers. Nothing is trained by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from align.config.schema import Recipe
from align.contexts import RewardModelContext, TokenContext
from align.learner.objective import checked_penalty
from align.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class TokenPenalties:
    """Of the trained tokens of a batch, in nats, on the CPU."""

    logp: Tensor
    """float32 [T], log pi."""
    log_ratio: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [T] by regularizer with a reference: log pi/ref."""
    divergence: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [T] by regularizer: its value, weighted, before the coefficient. A token's loss or reward has the coefficient times this."""


def token_penalties(
    recipe: Recipe, batch: TokenBatch, contexts: Iterable[tuple[Tensor, TokenContext | RewardModelContext]]
) -> TokenPenalties:
    """Args: contexts: the forward passes of the batch's micro-batches, each with the indices in [T] of its tokens."""
    count = len(batch.seq_ids)
    logp, log_ratio, divergence = torch.zeros(count), {}, {}
    for at, ctx in contexts:
        assert isinstance(ctx, TokenContext)  # a reward model has no log-probs
        logp[at] = ctx.logp.cpu()
        for name, regularizer in recipe.regularizers.items():
            divergence.setdefault(name, torch.zeros(count))[at] = checked_penalty(regularizer, ctx, name).value.cpu()
            if name in ctx.batch.ref_logp:
                log_ratio.setdefault(name, torch.zeros(count))[at] = (ctx.logp - ctx.batch.ref_logp[name]).cpu()
    return TokenPenalties(logp=logp, log_ratio=log_ratio, divergence=divergence)
