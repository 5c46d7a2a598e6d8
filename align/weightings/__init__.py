"""Weightings: which samples or tokens feel a regularizer. Computed once for the whole batch, detached, >= 0."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from align.types import TokenBatch


class Weighting(ABC):
    """The contract."""

    needs_policy = False
    """Reads `batch.old_logp` and `batch.entropy`: costs a forward pass where a batch serves one update only."""
    needs_rewards = False
    """Reads `batch.rewards` or `batch.advantages`: refused where the batch holds demonstrations."""

    @abstractmethod
    def weights(self, batch: TokenBatch, name: str) -> Tensor:
        """float32 [T], >= 0. The batch carries rewards, advantages and `references[name]`; groups are whole."""
