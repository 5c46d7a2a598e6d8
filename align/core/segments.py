"""Sums and means over sequences packed end to end, and over groups of sequences."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def segment_sum(x: Float[Tensor, "T"], ids: Int64[Tensor, "T"], count: int) -> Float[Tensor, "{count}"]:
    """The sum of x by id, ids < count."""
    return torch.zeros(count, dtype=x.dtype, device=x.device).index_add(0, ids, x)


def suffix_sum(x: Float[Tensor, "T"], seq_ids: Int64[Tensor, "T"], positions: Int64[Tensor, "T"]) -> Float[Tensor, "T"]:
    """The sum of x over t' > t, inside the sequence of t."""
    # Shifted, not the inclusive sum minus x: a large x would take the digits of what follows with it.
    later = torch.nn.functional.pad(padded(x, seq_ids, positions)[:, 1:], (0, 1))
    return later.flip(1).cumsum(1).flip(1)[seq_ids, positions]


def prefix_sum(x: Float[Tensor, "T"], seq_ids: Int64[Tensor, "T"], positions: Int64[Tensor, "T"]) -> Float[Tensor, "T"]:
    """The sum of x over t' <= t, inside the sequence of t."""
    return padded(x, seq_ids, positions).cumsum(1)[seq_ids, positions]


def group_mean(x: Float[Tensor, "S"], group_ids: Int64[Tensor, "S"]) -> Float[Tensor, "S"]:
    """The mean of x over the group of each sequence."""
    groups = int(group_ids.max()) + 1
    # In float64 the mean of equal float32 values is that value: what is centred with it is then exactly 0.
    total, count = segment_sum(x.double(), group_ids, groups), segment_sum(torch.ones_like(x), group_ids, groups)
    return (total / count)[group_ids].to(x.dtype)


def padded(x: Float[Tensor, "T"], seq_ids: Int64[Tensor, "T"], positions: Int64[Tensor, "T"]) -> Float[Tensor, "S longest"]:
    """x as rows, one a sequence, 0 after its end."""
    # Sums run along these rows: one cumulative sum over the packed [T] would carry rounding from one sequence into the next.
    rows = torch.zeros(int(seq_ids.max()) + 1, int(positions.max()) + 1, dtype=x.dtype, device=x.device)
    return rows.index_put((seq_ids, positions), x)
