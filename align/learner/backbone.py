"""Code that the policy and the reward model share: the device, and the positions of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from align.config.schema import Model
from align.errors import UserError
from align.types import TokenBatch


def device_of(options: Model) -> torch.device:
    """The device of a model. Raises UserError for a missing GPU, and for an option that only a GPU has."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: cuda was asked for, but torch sees no GPU in the learner's process; use auto or cpu")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    if options.tf32 and device.type == "cpu":
        raise UserError("model.tf32: changes nothing: the learner computes on the CPU; delete the key")
    return device


def before_each_token(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rows and columns of `batch.input_ids` of the token before each trained token: int64 [T] each."""
    return batch.seq_ids, batch.columns - 1


def at_the_end(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rows and columns of `batch.input_ids` where each sequence ends: int64 [S] each."""
    return torch.arange(len(batch.lengths), device=batch.lengths.device), batch.totals - 1
