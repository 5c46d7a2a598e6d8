from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from align.coefficients import State
from align.config.ranges import Infinite, NotNegative, Positive
from align.loss_weightings import EXAMPLE_LOSS, LossWeighting
from align.types import Columns


@dataclass(frozen=True)
class Feasible(LossWeighting):
    """Feasible learning: each example has the constraint l_i <= tolerance and weighs its dual multiplier (Ramirez et al. 2501.14912).

    The policy descends `mean lambda_i l_i`, lambda_i as before the step; then, for the examples of the step,
    `lambda_i <- max(lambda_i + rate (l_i - tolerance - lambda_i/resilience), 0)`, at rest `lambda_i = resilience (l_i - tolerance)` or 0.
    Defaults of the authors' DPO code. The state is one number for each example seen, by its id.
    """

    tolerance: NotNegative = 1e-3
    """In units of the loss (nats)."""
    rate: Positive = 1.0
    resilience: Annotated[float, Positive, Infinite()] = 2.0
    """How much violation is accepted. `.inf` is the constraint itself: the multiplier of one that cannot be met then grows without end."""
    initial: NotNegative = 1.0

    def __post_init__(self):
        if not self.rate < 2 * self.resilience:
            raise ValueError(
                f"resilience must be above rate/2 = {self.rate / 2:g}, not {self.resilience:g}: the multipliers would oscillate and diverge"
            )

    def formula(self) -> str:
        return "λ_i, the multiplier of l_i ≤ " + f"{self.tolerance:g}"

    def symbols(self) -> dict[str, str]:
        drained = "" if self.resilience == float("inf") else f" − λ_i/{self.resilience:g}"
        return EXAMPLE_LOSS | {
            "λ_i": f"{self.initial:g} at first; after a step max(λ_i + {self.rate:g} (l_i − {self.tolerance:g}{drained}), 0)"
        }

    def initial_state(self) -> State:
        return {"multipliers": {}}

    def of_batch(self, batch: Columns, state: State) -> Float[Tensor, "T"]:
        of_example = torch.tensor([state["multipliers"].get(prompt, self.initial) for prompt in batch.prompt_ids])
        return of_example[batch.seq_ids]

    def update(self, state: State, losses: Mapping[str, float]) -> State:
        multipliers = dict(state["multipliers"])
        for example, loss in losses.items():
            now = multipliers.get(example, self.initial)
            multipliers[example] = max(now + self.rate * (loss - self.tolerance - now / self.resilience), 0.0)
        return {"multipliers": multipliers}
