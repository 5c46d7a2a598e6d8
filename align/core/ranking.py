"""Rankings as pairs."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def pairs(group_ids: Int64[Tensor, "S"]) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"]]:
    """Every two answers of a group, the better and the worse one, as indices into the answers, in the order of the better.

    Args: group_ids: the answers of a group stand from best to worst.
    """
    better, worse = torch.triu(group_ids[:, None] == group_ids, diagonal=1).nonzero(as_tuple=True)
    return better, worse
