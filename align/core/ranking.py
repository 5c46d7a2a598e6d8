"""Rankings as pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs(group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Every two answers of a group, the better and the worse one: indices into [S], int64 [P] each, in the order of the better.

    Args: group_ids int64 [S]; the answers of a group stand from best to worst.
    """
    better, worse = torch.triu(group_ids[:, None] == group_ids, diagonal=1).nonzero(as_tuple=True)
    return better, worse
