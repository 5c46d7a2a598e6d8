"""Changes the tensors in a field of a batch: a tensor, a tuple of one entry a sequence, or either of them by name or in a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value with `change` applied to each tensor, or tuple of one entry a sequence, in it."""
    if isinstance(value, Mapping):
        return {name: each(change, part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: change(getattr(value, f.name)) for f in fields(value)})
    return change(value) if isinstance(value, Tensor | tuple) else value


def taken(value: Tensor | tuple, at: Tensor) -> Tensor | tuple:
    """The entries at these indices (int64)."""
    return value[at] if isinstance(value, Tensor) else tuple(value[i] for i in at.tolist()) if value else ()


def moved(value: Tensor | tuple, device: torch.device) -> Tensor | tuple:
    """The same value on a device; a tuple stays what it is."""
    if isinstance(value, tuple):
        return value
    # From memory that is not pinned a copy to a GPU waits for the device, whatever non_blocking says.
    value = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
    return value.to(device, non_blocking=True)


def joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    """The arrays end to end; the array itself where there is one, and no entries of `dtype` where there is none."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype), *parts])
