"""Coefficients: one rule for beta per file. The beta of a batch is fixed before its first update and travels with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from align.types import TokenBatch


class Coefficient(ABC):
    """The contract. State lives in `state_dict`, is checkpointed, and shows as `beta/NAME` in the metrics."""

    needs: frozenset[str] = frozenset()
    """What `multipliers` reads of the batch, of `types.EARLY` (see Weighting.needs)."""

    compares = False
    """`multipliers` compares the answers of a ranking, so it has a meaning for preferences alone."""

    @property
    def listens(self) -> bool:
        """Changes with the divergence it is told of."""
        return type(self).update is not Coefficient.update

    @staticmethod
    def shorthand(node: float) -> dict:
        """`coefficient: 0.1` in a recipe."""
        return {"name": "constant", "value": node}

    @abstractmethod
    def beta(self, step: int) -> float:
        """The coefficient of the batch of this step (from 0), >= 0."""

    def update(self, divergence: float, rollouts: int) -> None:
        """Told after each step: the mean over rollouts of the divergence summed over a response, in nats, and their number."""

    def multipliers(self, batch: TokenBatch, name: str) -> Tensor | None:
        """A factor of beta for each sequence of a scored batch, float32 [S], >= 0; None where beta is all there is.

        `name` finds the regularizer's own entries. The divergence a coefficient is told of contains neither beta nor these.
        """
        return None

    def update_prompts(self, divergences: Mapping[str, float]) -> None:
        """Told after each step where there are multipliers: for each prompt of the batch the mean over its rollouts, in nats a response."""

    def state_dict(self) -> dict:
        """JSON values only."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` gave."""
