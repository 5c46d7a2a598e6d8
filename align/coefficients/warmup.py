from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.coefficients import Coefficient
from align.config import part


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

    def multipliers(self, prompt_ids: Sequence[str]) -> list[float] | None:
        return self.to.multipliers(prompt_ids)

    def update_prompts(self, divergences: Mapping[str, float]) -> None:
        self.to.update_prompts(divergences)

    def state_dict(self) -> dict:
        return self.to.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.to.load_state_dict(state)
