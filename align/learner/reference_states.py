"""The references' hidden states during the updates of a batch. They stay in the learner: a batch has [T] columns only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.config.returned import Returned
from align.core.logprobs import Head
from align.references import RunningReference, place
from align.types import TokenBatch


class ReferenceStates:
    """Hidden states and heads of the references at the time a batch's log-probs are computed.

    With one update per batch, each micro-batch computes its states. With several updates the states are kept, because the updates may
    change a reference: up to `on_device` bytes on the device, the rest in host memory (pinned if there is a GPU).
    """

    def __init__(self, references: dict[str, RunningReference], on_device: int):
        self._references, self._on_device = references, on_device
        self._kept: dict[int, dict[int, Tensor]] = {}
        self._heads: dict[int, Head] = {}
        self._used = 0

    def start_batch(self) -> None:
        """Free the states of the previous batch."""
        self._kept, self._heads, self._used = {}, {}, 0

    def head(self, name: str) -> Head:
        """The layer that maps the states to logits, as it was at its first use for this batch."""
        reference = self._references[name]
        if id(reference) not in self._heads:
            self._heads[id(reference)] = reference.head()
        return self._heads[id(reference)]

    def keep(self, name: str, micro: TokenBatch, hidden: Tensor) -> None:
        """Keep the hidden states [T, H] of `micro` (a batch on the host) for later updates."""
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
        """States [T, H] by regularizer, on the device of `micro` (the learner's): the kept ones, or one forward pass per reference."""
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
            return Returned(reference, "hidden", place(name)).states(found, len(micro.seq_ids))
        return torch.cat([kept[row].to(micro.input_ids.device, non_blocking=True) for row in micro.rows])
