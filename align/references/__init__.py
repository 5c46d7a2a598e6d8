"""References: against whom a regularizer measures. Versioned, hashed, checkpointed.

A reference is a set of parameters that stand in for the policy's own during one forward pass, so it costs the memory of
the trained parameters only, and nothing with LoRA: there the frozen reference is the model with the adapter off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from align.learner.policy import Policy


class Reference(ABC):
    """The contract. `start` sees the policy as the recipe loads it, before any checkpoint is restored."""

    @abstractmethod
    def start(self, policy: Policy) -> None:
        """Take what is needed of the initial policy."""

    @abstractmethod
    def parameters(self) -> dict[str, Tensor] | None:
        """The parameters that replace the policy's trained ones; None for the base model with its adapter off."""

    def after_step(self, policy: Policy, step: int) -> None:
        """Told after each optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
