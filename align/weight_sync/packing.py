"""All weights of one version in one flat buffer: one object to ship, one manifest to check against.

A buffer put once into an object store arrives at every reader as a read-only view, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16


@dataclass(frozen=True)
class Entry:
    name: str
    """The name in the Hugging Face checkpoint."""
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the buffer."""


@dataclass(frozen=True)
class Weights:
    """A whole model, never a part of one: an engine that fuses q, k and v cannot take one of them."""

    manifest: tuple[Entry, ...]
    buffer: np.ndarray
    """uint8, flat."""

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        return {e.name: e.shape for e in self.manifest}


def pack(tensors: Iterable[tuple[str, Tensor]]) -> Weights:
    """Copy named tensors, from any device and in their own dtypes, into one buffer."""
    tensors = list(tensors)
    manifest, offset = [], 0
    for name, t in tensors:
        manifest.append(Entry(name=name, dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape), offset=offset))
        offset += -(-t.nbytes // ALIGNMENT) * ALIGNMENT
    weights = Weights(manifest=tuple(manifest), buffer=np.zeros(offset, dtype=np.uint8))
    for (_, view), (_, t) in zip(unpack(weights), tensors, strict=True):
        view.copy_(t.detach())
    return weights


def unpack(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Named views into the buffer, never copies. They may be read-only: copy from them, never into them."""
    # Unlike `from_numpy` and `frombuffer`, this takes a read-only array without a warning.
    flat = torch.from_dlpack(weights.buffer)
    for entry in weights.manifest:
        dtype = getattr(torch, entry.dtype)
        count = int(np.prod(entry.shape, dtype=np.int64))
        yield entry.name, flat[entry.offset : entry.offset + count * dtype.itemsize].view(dtype).reshape(entry.shape)
