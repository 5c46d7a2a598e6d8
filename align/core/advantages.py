"""Advantages: from the rewards of a batch to one number a sequence. Detached, [S] -> [S]."""

from __future__ import annotations

import torch
from torch import Tensor

from align.core.segments import group_mean, segment_sum


def group_centred(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """r - mean of its group (Dr. GRPO 2503.20783). The mean contains r itself: the gradient is (n - 1)/n of the policy gradient."""
    return rewards - group_mean(rewards, group_ids)


def leave_one_out(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """r - mean of the others of its group = n/(n - 1) (r - mean) (RLOO 2402.14740): the unbiased baseline. A group of one gets 0."""
    n = segment_sum(torch.ones_like(rewards), group_ids, int(group_ids.max()) + 1)[group_ids]
    return group_centred(rewards, group_ids) * n / (n - 1).clamp_min(1)


def group_standardised(rewards: Tensor, group_ids: Tensor, eps: float = 1e-4) -> Tensor:
    """(r - mean)/(std + eps) over its group, std unbiased (GRPO 2402.03300; TRL's eps). A group of one, or all equal, gets 0."""
    centred = group_centred(rewards, group_ids)
    groups = int(group_ids.max()) + 1
    n = segment_sum(torch.ones_like(rewards), group_ids, groups)
    variance = segment_sum(centred**2, group_ids, groups) / (n - 1).clamp_min(1)
    return centred / (variance.sqrt()[group_ids] + eps)


def batch_standardised(rewards: Tensor, group_ids: Tensor, eps: float = 1e-4) -> Tensor:
    """r - mean of its group, over the standard deviation of the whole batch's rewards (TRL `scale_rewards="batch"`)."""
    variance = (rewards - rewards.mean()).square().sum() / max(len(rewards) - 1, 1)
    return group_centred(rewards, group_ids) / (variance.sqrt() + eps)
