from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import not_negative, positive


@dataclass(frozen=True)
class Kdrl(Coefficient):
    """KDRL's annealed distillation coefficient (Xu et al. 2506.02208): `max(start - slope * step, floor)`.

    The defaults are the published schedule, known from a re-implementation that quotes the paper.
    """

    start: float = 5e-3
    slope: float = 5e-5
    """Lost at each step."""
    floor: float = 1e-3

    def __post_init__(self):
        positive(self, "start", "slope")
        not_negative(self, "floor")
        if self.floor >= self.start:
            raise ValueError(f"floor {self.floor} is not below start {self.start}: beta could not fall")

    def beta(self, step: int, state: State) -> float:
        return max(self.start - self.slope * step, self.floor)
