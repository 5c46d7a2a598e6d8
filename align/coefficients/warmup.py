from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from align.coefficients import Coefficient, State
from align.config.nodes import part
from align.types import Columns


@dataclass(frozen=True)
class Warmup(Coefficient):
    """Any other coefficient, scaled by `min((step + 1)/steps, 1)`: `{name: warmup, steps: 20, to: 0.1}`.

    What it scales follows every step's divergence from the first on; its state is the state.
    """

    steps: int
    to: Any = part("coefficient")
    """The coefficient that is reached: a number, or a part."""

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, not {self.steps}: the first step is not 0, so one step changes nothing")

    @property
    def schedule_steps(self) -> float:
        return max(self.steps - 1, self.to.schedule_steps)

    @property
    def needs(self) -> frozenset[str]:
        return self.to.needs

    @property
    def compares(self) -> bool:
        return self.to.compares

    @property
    def ascends(self) -> bool:
        return self.to.ascends

    @property
    def listens(self) -> bool:
        return self.to.listens

    @property
    def listens_by_prompt(self) -> bool:
        return self.to.listens_by_prompt

    def initial_state(self) -> State:
        return self.to.initial_state()

    def beta(self, step: int, state: State) -> float:
        return min((step + 1) / self.steps, 1.0) * self.to.beta(step, state)

    def multipliers(self, batch: Columns, name: str, state: State) -> Float[Tensor, "S"] | None:
        return self.to.multipliers(batch, name, state)

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        return self.to.update(state, divergence, rollouts)

    def update_prompts(self, state: State, divergences: Mapping[str, float]) -> State:
        return self.to.update_prompts(state, divergences)

    def update_batch(self, state: State, batch: Columns, name: str) -> State:
        return self.to.update_batch(state, batch, name)
