from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from align.coefficients import Coefficient, State
from align.coefficients._checks import not_negative, positive
from align.config.ranges import Infinite
from align.types import Columns


@dataclass(frozen=True)
class Feasible(Coefficient):
    """A coefficient for each prompt, the dual multiplier of its own constraint D_i <= tolerance (Ramirez et al. 2501.14912).

    After each step, for the prompts in it: `lambda_i <- max(lambda_i + rate (D_i - tolerance - lambda_i/resilience), 0)`, at rest
    `lambda_i = resilience (D_i - tolerance)` or 0. A batch feels the multipliers from before it. Defaults of the authors' DPO
    code; there i is a pair, here a prompt, and D_i the mean over its rollouts.
    """

    ascends = True

    tolerance: float = 1e-3
    """Nats per response (summed over its tokens)."""
    rate: float = 1.0
    resilience: Annotated[float, Infinite()] = 2.0
    """How much violation is put up with. `.inf` insists on the constraint: the multiplier of one that cannot be met then grows for ever."""
    initial: float = 1.0

    def __post_init__(self):
        not_negative(self, "tolerance", "initial")
        positive(self, "rate")
        if not self.rate < 2 * self.resilience:
            raise ValueError(
                f"resilience must be above rate/2 = {self.rate / 2:g}, not {self.resilience:g}: the multipliers would swing ever wider"
            )

    def initial_state(self) -> State:
        return {"multipliers": {}}

    def beta(self, step: int, state: State) -> float:
        return 1.0

    def multipliers(self, batch: Columns, name: str, state: State) -> Float[Tensor, "S"]:
        return torch.tensor([state["multipliers"].get(prompt, self.initial) for prompt in batch.prompt_ids])

    def update_prompts(self, state: State, divergences: Mapping[str, float]) -> State:
        multipliers = dict(state["multipliers"])
        for prompt, divergence in divergences.items():
            now = multipliers.get(prompt, self.initial)
            multipliers[prompt] = max(now + self.rate * (divergence - self.tolerance - now / self.resilience), 0.0)
        return {"multipliers": multipliers}
