"""Tensor parallelism: each rank holds a range of the vocabulary, and only [T] statistics travel.

Hidden states and labels are the same on every rank. `group` None is one process: everything passes through.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from align_kernels.row import RowStats


def merge_shards(stats: RowStats, group: Any) -> RowStats:
    """The statistics of whole rows from those of every rank's shard."""
    if group is None:
        return stats
    # Lists of one tensor, or of none without a reference.
    m_q, s_q, u_y = ([], [], []) if stats.m_q is None else ([t] for t in stats.reference_sums())
    own = torch.stack([stats.m_p, *m_q])
    tops = torch.stack([stats.m_p, stats.z_y, *m_q, *u_y])
    dist.all_reduce(tops, dist.ReduceOp.MAX, group)
    # A shard where nothing is possible has the maximum -inf, and -inf - -inf is no number; its sums are 0.
    fall = torch.where(torch.isneginf(own), 0.0, own.double() - tops[::2])
    down = fall.exp()
    sums = torch.stack([stats.s_p * down[0], (stats.e_p + stats.s_p * fall[0]) * down[0], *(s * down[1] for s in s_q)])
    dist.all_reduce(sums, group=group)
    return RowStats(tops[0], sums[0], sums[1], tops[1], *((tops[2], sums[2], tops[3]) if m_q else (None, None, None)))


def sum_over_ranks(tensors: tuple[Tensor, ...], group: Any) -> tuple[Tensor, ...]:
    """Each summed over the ranks, in one message; of one shape."""
    if group is None:
        return tensors
    message = torch.stack(tensors)
    dist.all_reduce(message, group=group)
    return message.unbind()
