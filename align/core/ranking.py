"""Rankings: the likelihood of an order of answers under their scores."""

from __future__ import annotations

import torch
from torch import Tensor

from align.core.segments import padded, segment_sum


def plackett_luce(scores: Tensor, group_ids: Tensor) -> Tensor:
    """-log of the probability of each group's order: [S] -> [G], nats, differentiable (Zhu et al. 2301.11270, K-wise).

    sum_k [logsumexp_{j >= k} s_j - s_k]: the best is drawn by softmax, then the best of the rest. Two answers are Bradley-Terry,
    -log sigmoid(s_w - s_l). Only differences of scores within a group count.

    Args: scores [S], differentiable; group_ids int64 [S]; the answers of a group stand from best to worst, next to each other or not.
    """
    order = torch.argsort(group_ids, stable=True)
    ids, sorted_scores = group_ids[order], scores[order]
    groups = int(group_ids.max()) + 1
    from_worst = torch.bincount(ids, minlength=groups).cumsum(0)[ids] - 1 - torch.arange(len(ids), device=ids.device)
    rows = padded(sorted_scores, ids, from_worst)
    # A row for each answer, of itself and what is worse. Not `logcumsumexp`: its gradient is off by roundings of the scores' size.
    placed = torch.arange(rows.shape[1], device=ids.device) > from_worst[:, None]
    rest = rows[ids].masked_fill(placed, -torch.inf).logsumexp(1)
    return segment_sum(rest - sorted_scores, ids, groups)


def pairs(group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Every two answers of a group, the better and the worse one: indices into [S], int64 [P] each, in the order of the better.

    Args: group_ids int64 [S]; the answers of a group stand from best to worst.
    """
    return torch.triu(group_ids[:, None] == group_ids, diagonal=1).nonzero(as_tuple=True)
