"""Contexts made of bare log-probs: any packed responses, and TG, the GRPO batch of the methods' oracle table."""

from __future__ import annotations

import torch
from helpers.built import single_turn, weights
from helpers.enumeration import NAME
from torch import Tensor

from align.contexts import TokenContext
from align.types import TokenBatch


def random_tokens(count: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of as many unrelated tokens under pi (a leaf), mu and ref."""
    generator = torch.Generator().manual_seed(5)
    pi, mu, ref = -2 * torch.rand(3, count, generator=generator, dtype=torch.float64) - 0.05
    return pi.requires_grad_(), mu, ref


def packed(logp: Tensor, old: Tensor | None, ref: Tensor, lengths: list[int], width: int | None = None) -> TokenContext:
    """A context from bare log-probs; the ids in `input_ids` are arbitrary."""
    width = max(lengths) if width is None else width
    batch = TokenBatch(
        input_ids=torch.full((len(lengths), 1 + width), 7),
        **single_turn(torch.ones(len(lengths), dtype=torch.int64), torch.tensor(lengths)),
        group_ids=torch.zeros(len(lengths), dtype=torch.int64),
        old_logp=old,
        ref_logp={NAME: ref},
        penalty_weights={NAME: torch.ones(len(logp), dtype=logp.dtype)},
    )
    return TokenContext(batch=batch, logp=logp, entropy=torch.zeros_like(logp.detach()))


TG_LENGTHS = [4, 3]
TG_KEPT = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
TG_ADVANTAGES = torch.tensor([1.0, 1, 1, 1, -0.5, -0.5, -0.5], dtype=torch.float64)


def tg() -> TokenContext:
    logp, old, ref = (
        torch.tensor(p, dtype=torch.float64).log()[TG_KEPT]
        for p in (
            [[0.50, 0.30, 0.80, 0.60], [0.20, 0.90, 0.40, 0.70]],
            [[0.45, 0.40, 0.80, 0.50], [0.30, 0.85, 0.20, 0.70]],
            [[0.40, 0.35, 0.70, 0.60], [0.25, 0.80, 0.50, 0.60]],
        )
    )
    return packed(logp.requires_grad_(), old, ref, TG_LENGTHS)


def reduced(x: Tensor, ctx: TokenContext, reduction: str) -> Tensor:
    """The reductions' weights are float32: 7 digits of a loss."""
    return (weights(reduction, ctx.batch.lengths, 8)[ctx.batch.seq_ids].double() * x).sum()
