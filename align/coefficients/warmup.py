from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.coefficients import Coefficient
from align.config import part
from align.types import TokenBatch


@dataclass(frozen=True)
class Warmup(Coefficient):
    """Any other coefficient, scaled by `min((step + 1)/steps, 1)`: `{name: warmup, steps: 20, to: 0.1}`.

    What it scales is told of every step's divergence from the first on, and keeps its own state.
    """

    steps: int
    to: Any = part("coefficient")
    """The coefficient that is reached: a number, or a part."""

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, not {self.steps}: the first step is not 0, so one step changes nothing")

    def beta(self, step: int) -> float:
        return min((step + 1) / self.steps, 1.0) * self.to.beta(step)

    def update(self, divergence: float, rollouts: int) -> None:
        self.to.update(divergence, rollouts)

    @property
    def needs(self) -> frozenset[str]:
        return self.to.needs

    @property
    def compares(self) -> bool:
        return self.to.compares

    @property
    def listens(self) -> bool:
        return self.to.listens

    def multipliers(self, batch: TokenBatch, name: str) -> Tensor | None:
        return self.to.multipliers(batch, name)

    def update_prompts(self, divergences: Mapping[str, float]) -> None:
        self.to.update_prompts(divergences)

    def state_dict(self) -> dict:
        return self.to.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.to.load_state_dict(state)
