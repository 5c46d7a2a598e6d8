"""A coefficient and its state, as a run holds them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from align.coefficients import Coefficient, State
from align.types import TokenBatch


class Followed:
    """The methods of a coefficient at the state that its updates have led to."""

    def __init__(self, rule: Coefficient, state: State | None = None):
        self.rule, self.state = rule, rule.initial_state() if state is None else state

    def beta(self, step: int) -> float:
        return self.rule.beta(step, self.state)

    def multipliers(self, batch: TokenBatch, name: str) -> Tensor | None:
        return self.rule.multipliers(batch, name, self.state)

    def update(self, divergence: float, rollouts: int) -> None:
        self.state = self.rule.update(self.state, divergence, rollouts)

    def update_prompts(self, divergences: Mapping[str, float]) -> None:
        self.state = self.rule.update_prompts(self.state, divergences)

    def update_batch(self, batch: TokenBatch, name: str) -> None:
        self.state = self.rule.update_batch(self.state, batch, name)
