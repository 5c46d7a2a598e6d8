import math
from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import between, positive


@dataclass(frozen=True)
class Lagrangian(Coefficient):
    """Beta as the multiplier of the constraint D = target, by dual ascent on its logarithm.

    After each step with divergence d: `log beta += rate * (d - target)/target`, kept within [minimum, maximum]. At rest d is the
    target, or beta is at `minimum` with d below. Unlike `adaptive` the error is not clipped and the batch's size does not enter.
    """

    ascends = True

    target: float
    """Nats per response (summed over its tokens)."""
    initial: float = 0.1
    rate: float = 0.1
    minimum: float = 1e-6
    maximum: float = 1e2

    def __post_init__(self):
        positive(self, "target", "rate")
        between(self)

    def initial_state(self) -> State:
        return {"log_beta": math.log(self.initial)}

    def beta(self, step: int, state: State) -> float:
        return min(max(math.exp(state["log_beta"]), self.minimum), self.maximum)

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        raised = state["log_beta"] + self.rate * (divergence - self.target) / self.target
        return {"log_beta": min(max(raised, math.log(self.minimum)), math.log(self.maximum))}
