"""Splits a batch into minibatches, one for each update, and those into micro-batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from align.types import TokenBatch


def minibatches(batch: TokenBatch, count: int, seed: int) -> Iterator[TokenBatch]:
    """Whole groups, shuffled by `seed`, in `count` parts of nearly equal size."""
    if count == 1:
        yield batch
        return
    groups = torch.randperm(int(batch.group_ids.max()) + 1, generator=torch.Generator().manual_seed(seed))
    for part in groups.tensor_split(count):
        chosen = torch.isin(batch.group_ids, part).nonzero().squeeze(-1)
        if len(chosen):
            yield batch.select(chosen)


def micro_batches(batch: TokenBatch, micro_tokens: int, whole_groups: bool = False) -> Iterator[tuple[Tensor, TokenBatch]]:
    """Parts of similar-length sequences with at most `micro_tokens` inputs, padding included (but at least one sequence).

    With `whole_groups` no group is split, and a part has at least one group. Yields the part's token indices in [T], and the part.
    """
    totals = batch.totals.tolist()
    units = _groups(batch.group_ids) if whole_groups else [[i] for i in range(len(totals))]
    longest = [max(totals[i] for i in unit) for unit in units]
    parts, current, widest = [], [], 0
    for i in sorted(range(len(units)), key=longest.__getitem__):
        widest = max(widest, longest[i])
        if current and widest * (len(current) + len(units[i])) > micro_tokens:
            parts.append(current)
            current, widest = [], longest[i]
        current.extend(units[i])
    parts.append(current)
    for part in parts:
        sequences = torch.tensor(sorted(part))
        yield batch.tokens_of(sequences), batch.select(sequences)


def _groups(group_ids: Tensor) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(group_ids.tolist()):
        groups.setdefault(group, []).append(i)
    return list(groups.values())
