from dataclasses import dataclass

from align.coefficients import Coefficient
from align.coefficients._checks import between, positive


@dataclass
class PpoPenalty(Coefficient):
    """PPO's adaptive penalty (Schulman et al. 1707.06347, section 4): halved below the target, doubled above it.

    After each step with divergence d: `d < target/tolerance -> beta/factor`, `d > target * tolerance -> beta * factor`, else
    unchanged; kept within [minimum, maximum].
    """

    target: float
    """Nats per response (summed over its tokens); the paper's is per step of its environment."""
    initial: float = 1.0
    tolerance: float = 1.5
    factor: float = 2.0
    minimum: float = 1e-6
    maximum: float = 1e2

    def __post_init__(self):
        positive(self, "target", "tolerance", "factor")
        between(self)
        if self.tolerance < 1 or self.factor <= 1:
            raise ValueError(f"tolerance must be at least 1 and factor above 1, not {self.tolerance} and {self.factor}")
        self._beta = self.initial

    def beta(self, step: int) -> float:
        return self._beta

    def update(self, divergence: float, rollouts: int) -> None:
        if divergence < self.target / self.tolerance:
            self._beta = max(self._beta / self.factor, self.minimum)
        elif divergence > self.target * self.tolerance:
            self._beta = min(self._beta * self.factor, self.maximum)

    def state_dict(self) -> dict:
        return {"beta": self._beta}

    def load_state_dict(self, state: dict) -> None:
        self._beta = state["beta"]
