import math
from dataclasses import dataclass

from align.coefficients import Coefficient
from align.coefficients._checks import between, positive


@dataclass
class Lagrangian(Coefficient):
    """Beta as the multiplier of the constraint D = target, by dual ascent on its logarithm.

    After each step with divergence d: `log beta += rate * (d - target)/target`, kept within [minimum, maximum]. At rest d is the
    target, or beta is at `minimum` with d below. Unlike `adaptive` the error is not clipped and the batch's size does not enter.
    """

    target: float
    """Nats per response (summed over its tokens)."""
    initial: float = 0.1
    rate: float = 0.1
    minimum: float = 1e-6
    maximum: float = 1e2

    def __post_init__(self):
        positive(self, "target", "rate")
        between(self)
        self._log_beta = math.log(self.initial)

    def beta(self, step: int) -> float:
        return min(max(math.exp(self._log_beta), self.minimum), self.maximum)

    def update(self, divergence: float, rollouts: int) -> None:
        raised = self._log_beta + self.rate * (divergence - self.target) / self.target
        self._log_beta = min(max(raised, math.log(self.minimum)), math.log(self.maximum))

    def state_dict(self) -> dict:
        return {"log_beta": self._log_beta}

    def load_state_dict(self, state: dict) -> None:
        self._log_beta = state["log_beta"]
