"""The axes of a batch's fields, trained tokens or sequences, and what is done to all fields of an axis alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RewardPenalty:
    """What a regularizer takes from token rewards, so that a critic learns it too."""

    discounted: Tensor
    """float32 [T], nats: taken from the reward of each token, for which that token and those before it answer."""
    direct: Tensor
    """float32 [T], nats: taken from each token's own advantage alone."""


def by(axis: str, default: Any = MISSING) -> Any:
    """A field of a batch with one entry for each trained token, `T`, or each sequence, `S`; `select` reads it. `dict`: tensors by name."""
    if default is dict:
        return field(default_factory=dict, metadata={"axis": axis})
    return field(default=default, metadata={"axis": axis})


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value with `change` applied to each tensor, or tuple of one entry a sequence, in it."""
    if isinstance(value, Mapping):
        return {name: each(change, part) for name, part in value.items()}
    if isinstance(value, RewardPenalty):
        return replace(value, **{f.name: change(getattr(value, f.name)) for f in fields(value)})
    return change(value) if isinstance(value, Tensor | tuple) else value


def taken(value: Tensor | tuple, at: Tensor) -> Tensor | tuple:
    return value[at] if isinstance(value, Tensor) else tuple(value[i] for i in at.tolist()) if value else ()


def moved(value: Tensor | tuple, device: torch.device) -> Tensor | tuple:
    if isinstance(value, tuple):
        return value
    # From memory that is not pinned a copy to a GPU waits for the device, whatever non_blocking says.
    value = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
    return value.to(device, non_blocking=True)
