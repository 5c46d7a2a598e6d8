from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import not_negative


@dataclass(frozen=True)
class Constant(Coefficient):
    """beta(step) = value. In a recipe simply `coefficient: 0.1`; 0 measures the divergence and trains nothing by it."""

    value: float

    def __post_init__(self):
        not_negative(self, "value")

    def beta(self, step: int, state: State) -> float:
        return self.value
