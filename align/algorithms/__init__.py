"""Algorithms: what is estimated from a batch and how it is reduced. The regularizers are not an algorithm's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import isfunction

from torch import Tensor

from align.core import reductions
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

    def check(self) -> None:
        """Raises ValueError for a key every algorithm has in common; to be called by `__post_init__`."""
        known = [name for name, value in vars(reductions).items() if isfunction(value)]
        if self.reduction not in known:
            raise ValueError(f"reduction must be one of {', '.join(known)}, not {self.reduction!r}")
        for key in ("epochs", "minibatches"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")

    @property
    def has_advantages(self) -> bool:
        """Its loss weighs tokens by `advantages`."""
        return type(self).advantages is not Algorithm.advantages

    @property
    def on_policy(self) -> bool:
        """Each batch is used for one update only: pi_theta is pi_old whenever a gradient is taken."""
        return self.epochs * self.minibatches == 1
