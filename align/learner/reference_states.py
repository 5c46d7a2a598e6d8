"""The references' hidden states while a batch is learned from. They stay in the learner: a batch holds [T] columns alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.config.returned import Returned
from align.core.logprobs import Head
from align.references import RunningReference
from align.types import TokenBatch


class ReferenceStates:
    """Hidden states and heads of the references, as they are when a batch is scored.

    A batch that serves one update gets its states inside each micro-batch. One that serves several keeps them, for a reference may
    move with the updates: on the device up to `on_device` bytes, beyond it in host memory (pinned beside a GPU).
    """

    def __init__(self, references: dict[str, RunningReference], on_device: int):
        self._references, self._on_device = references, on_device
        self._kept: dict[int, dict[int, Tensor]] = {}
        self._heads: dict[int, Head] = {}
        self._used = 0

    def start_batch(self) -> None:
        """Let go of the batch before."""
        self._kept, self._heads, self._used = {}, {}, 0

    def head(self, name: str) -> Head:
        """The layer that makes logits of the states, of its first use for this batch."""
        reference = self._references[name]
        if id(reference) not in self._heads:
            self._heads[id(reference)] = reference.head()
        return self._heads[id(reference)]

    def keep(self, name: str, micro: TokenBatch, hidden: Tensor) -> None:
        """Keep hidden [T, H] of the sequences of `micro` (a batch on the host) for the updates to come."""
        self.head(name)
        by_row = self._kept.setdefault(id(self._references[name]), {})
        if micro.rows[0] in by_row:
            return  # another regularizer has the same reference
        fits = self._used + hidden.nbytes <= self._on_device
        if fits:
            self._used += hidden.nbytes
        else:
            hidden = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=hidden.is_cuda).copy_(hidden, non_blocking=hidden.is_cuda)
        by_row.update(zip(micro.rows, hidden.split(micro.lengths.tolist()), strict=True))

    @torch.no_grad()
    def of(self, names: Sequence[str], micro: TokenBatch) -> dict[str, Tensor]:
        """[T, H] by regularizer, on the learner's device, where `micro` is: kept ones, or by one forward pass a reference."""
        found: dict[int, Tensor] = {}
        for name in names:
            reference = self._references[name]
            if id(reference) not in found:
                found[id(reference)] = self._of(name, micro)
        return {name: found[id(self._references[name])] for name in names}

    def _of(self, name: str, micro: TokenBatch) -> Tensor:
        reference = self._references[name]
        kept = self._kept.get(id(reference), {})
        if not kept or micro.rows[0] not in kept:
            found = reference.hidden(micro)
            return Returned(reference, "hidden", f"regularizers.{name}.reference").states(found, len(micro.seq_ids))
        return torch.cat([kept[row].to(micro.input_ids.device, non_blocking=True) for row in micro.rows])
