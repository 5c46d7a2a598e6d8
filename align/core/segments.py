"""Sums and means over sequences packed end to end, and over groups of sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """sum of x [T] by id [T] (int64, values < count) -> [count]."""
    return torch.zeros(count, dtype=x.dtype, device=x.device).index_add(0, ids, x)


def suffix_sum(x: Tensor, seq_ids: Tensor, positions: Tensor) -> Tensor:
    """sum over t' > t, inside the sequence of t, of x [T] -> [T]."""
    rows = _unpack(x, seq_ids, positions)
    after = rows.flip(1).cumsum(1).flip(1) - rows
    return after[seq_ids, positions]


def prefix_sum(x: Tensor, seq_ids: Tensor, positions: Tensor) -> Tensor:
    """sum over t' <= t, inside the sequence of t, of x [T] -> [T]."""
    return _unpack(x, seq_ids, positions).cumsum(1)[seq_ids, positions]


def group_mean(x: Tensor, group_ids: Tensor) -> Tensor:
    """mean of x [S] over the group of each sequence -> [S]."""
    groups = int(group_ids.max()) + 1
    return (segment_sum(x, group_ids, groups) / segment_sum(torch.ones_like(x), group_ids, groups))[group_ids]


def _unpack(x: Tensor, seq_ids: Tensor, positions: Tensor) -> Tensor:
    # Sums run along padded rows: one cumulative sum over the packed [T] would carry rounding from one sequence into the next.
    rows = torch.zeros(int(seq_ids.max()) + 1, int(positions.max()) + 1, dtype=x.dtype, device=x.device)
    return rows.index_put((seq_ids, positions), x)
