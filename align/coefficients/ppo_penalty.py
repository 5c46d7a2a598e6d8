from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import between, positive


@dataclass(frozen=True)
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

    def initial_state(self) -> State:
        return {"beta": self.initial}

    def beta(self, step: int, state: State) -> float:
        return state["beta"]

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        if divergence < self.target / self.tolerance:
            return {"beta": max(state["beta"] / self.factor, self.minimum)}
        if divergence > self.target * self.tolerance:
            return {"beta": min(state["beta"] * self.factor, self.maximum)}
        return state
