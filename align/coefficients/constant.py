from dataclasses import dataclass

from align.coefficients import Coefficient, State


@dataclass(frozen=True)
class Constant(Coefficient):
    """beta(step) = value. In a recipe simply `coefficient: 0.1`; 0 measures the divergence and trains nothing by it."""

    value: float

    def __post_init__(self):
        if self.value < 0:
            raise ValueError(f"value must be >= 0, not {self.value}: a negative coefficient drives the policy away")

    def beta(self, step: int, state: State) -> float:
        return self.value
