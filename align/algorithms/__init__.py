"""Algorithms: what is estimated from a batch and how it is reduced. The regularizers are not an algorithm's business."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from align.describe import summary
from align.types import TokenBatch, TokenContext


class Algorithm(ABC):
    """The contract."""

    samples = True
    """Learns from the policy's own rollouts (needs an engine and a reward); else from the task's demonstrations."""
    reduction: str
    """A function of `core/reductions.py`."""
    epochs: int = 1
    """Passes over each batch."""
    minibatches: int = 1
    """Optimizer steps in one pass."""

    def advantages(self, batch: TokenBatch) -> Tensor | None:
        """float32 [T] from the rewards of the whole batch; None where the loss uses none."""
        return None

    @abstractmethod
    def loss(self, ctx: TokenContext, advantages: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token, [T], to be minimised, and statistics to be averaged over tokens, [T] each.

        `advantages` are the batch's, minus what the reward-placed regularizers take.
        """

    def formula(self) -> str:
        """What is maximised at each token, as `align explain` writes it, with the values of the keys in it."""
        return f"[{summary(type(self))}]"

    def symbols(self) -> dict[str, str]:
        """What the symbols of `formula` stand for under these keys."""
        return {}

    @property
    def on_policy(self) -> bool:
        """Each batch is used for one update only: pi_theta is pi_old whenever a gradient is taken."""
        return self.epochs * self.minibatches == 1
