"""Flattens all weights of one version into one buffer with a manifest.

Readers get a buffer in an object store as a read-only view, without a copy.
"""

from __future__ import annotations

import weakref
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
    """All weights of a model. A part of a model is not allowed: an engine that fuses q, k and v cannot load one of them."""

    manifest: tuple[Entry, ...]
    buffer: np.ndarray
    """uint8, flat."""

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        return {e.name: e.shape for e in self.manifest}


class Flattener:
    """Flattens each version into the same memory, which is pinned if the tensors come from a GPU.

    The memory is overwritten only after every reference to the previous buffer, or to a view of it, is gone; until then the next
    version gets new memory.
    """

    def __init__(self):
        self._manifest: tuple[Entry, ...] = ()
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._given: weakref.ref[np.ndarray] | None = None

    @torch.no_grad()
    def flatten(self, alike: Iterable[tuple[str, Tensor]], tensors: Iterable[tuple[str, Tensor]]) -> Weights:
        """Copy named tensors, from any device and in their own dtypes, one at a time; an iterator may compute them lazily.

        Args: alike: tensors of the same names, shapes, dtypes and devices, in the same order; their values are not read.
        Raises ValueError if `tensors` differ from `alike`.
        """
        manifest, size, devices = _manifest_of(alike)
        self._make_room(manifest, size, pinned=any(device.type == "cuda" for device in devices))
        left = iter(manifest)
        for name, tensor in tensors:
            entry = next(left, None)
            if entry is None or entry != _entry(name, tensor, entry.offset):
                raise ValueError(f"{name} {tensor.dtype} {list(tensor.shape)} was announced as {entry}")
            _view(self._memory, entry).copy_(tensor, non_blocking=tensor.is_cuda)
            del tensor  # or two lazily computed tensors would be in memory at once
        if (missing := next(left, None)) is not None:
            raise ValueError(f"{missing.name} was announced and did not come")
        for device in devices:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        buffer = self._memory.numpy()
        self._given = weakref.ref(buffer)
        return Weights(manifest=manifest, buffer=buffer)

    def _make_room(self, manifest: tuple[Entry, ...], size: int, pinned: bool) -> None:
        # A view, also one of torch, keeps its array alive, so one weak reference is enough.
        held = self._given is not None and self._given() is not None
        if held or manifest != self._manifest:
            # Zeros, because no tensor covers the gaps between tensors.
            self._manifest, self._memory = manifest, torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)


def flatten(tensors: Iterable[tuple[str, Tensor]]) -> Weights:
    """Copy named tensors into a new buffer."""
    tensors = list(tensors)
    return Flattener().flatten(tensors, tensors)


def unflatten(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Named views of the buffer, without copies. They may be read-only: do not write to them."""
    # Unlike `from_numpy` and `frombuffer`, this takes a read-only array without a warning.
    flat = torch.from_dlpack(weights.buffer)
    for entry in weights.manifest:
        yield entry.name, _view(flat, entry)


def _manifest_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[tuple[Entry, ...], int, set[torch.device]]:
    """The manifest, the buffer's size in bytes, and the devices of the tensors."""
    manifest, offset, devices = [], 0, set()
    for name, t in tensors:
        manifest.append(_entry(name, t, offset))
        offset += -(-t.nbytes // ALIGNMENT) * ALIGNMENT
        devices.add(t.device)
    return tuple(manifest), offset, devices


def _entry(name: str, t: Tensor, offset: int) -> Entry:
    return Entry(name=name, dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape), offset=offset)


def _view(flat: Tensor, entry: Entry) -> Tensor:
    dtype = getattr(torch, entry.dtype)
    count = int(np.prod(entry.shape, dtype=np.int64))
    return flat[entry.offset : entry.offset + count * dtype.itemsize].view(dtype).reshape(entry.shape)
