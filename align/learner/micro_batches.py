"""How a batch is cut: into minibatches that each serve one update, and into micro-batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from align.types import TokenBatch


def minibatches(batch: TokenBatch, count: int, seed: int) -> Iterator[TokenBatch]:
    """Whole groups, shuffled by `seed`, in `count` parts as equal as can be."""
    if count == 1:
        yield batch
        return
    groups = torch.randperm(int(batch.group_ids.max()) + 1, generator=torch.Generator().manual_seed(seed))
    for part in groups.tensor_split(count):
        chosen = torch.isin(batch.group_ids, part).nonzero().squeeze(-1)
        if len(chosen):
            yield batch.select(chosen)


def micro_batches(batch: TokenBatch, micro_tokens: int) -> Iterator[tuple[Tensor, TokenBatch]]:
    """Sequences of like length together, each part at most `micro_tokens` inputs with its padding (at least one sequence).

    Yields the indices in [T] of the part's tokens, and the part.
    """
    totals = batch.prompt_lengths + batch.lengths
    parts, current, widest = [], [], 0
    for i in torch.argsort(totals, stable=True).tolist():
        widest = max(widest, int(totals[i]))
        if current and widest * (len(current) + 1) > micro_tokens:
            parts.append(current)
            current, widest = [], int(totals[i])
        current.append(i)
    parts.append(current)
    for part in parts:
        keep = torch.zeros(len(totals), dtype=torch.bool)
        keep[part] = True
        yield keep[batch.seq_ids].nonzero().squeeze(-1), batch.select(keep.nonzero().squeeze(-1))
