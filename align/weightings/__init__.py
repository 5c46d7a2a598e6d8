"""Weightings: which samples or tokens feel a regularizer. Computed once for the whole batch, detached, >= 0."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from align.types import TokenBatch


class Weighting(ABC):
    """The contract."""

    @abstractmethod
    def weights(self, batch: TokenBatch) -> Tensor:
        """float32 [T]. The batch carries rewards and advantages; groups are whole."""
