import itertools
from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import coefficient


@dataclass(frozen=True)
class Piecewise(Coefficient):
    """beta(step) on straight lines between `points`, a list of [step, value]; level before the first and after the last.

    Two points a step apart make a jump.
    """

    points: tuple[list[float], ...]
    """At least two, their steps increasing."""

    def __post_init__(self):
        if len(self.points) < 2 or any(len(point) != 2 for point in self.points):
            raise ValueError(f"points must be two or more pairs [step, value], not {list(self.points)}")
        for step, value in self.points:
            coefficient(f"the value at step {step:g}", value)
        if not all(a < b for (a, _), (b, _) in itertools.pairwise(self.points)):
            raise ValueError(f"the steps of points must increase: {[step for step, _ in self.points]}")

    @property
    def schedule_steps(self) -> float:
        return self.points[-1][0]

    def beta(self, step: int, state: State) -> float:
        if step <= self.points[0][0]:
            return self.points[0][1]
        for (a, low), (b, high) in itertools.pairwise(self.points):
            if step < b:
                share = (step - a) / (b - a)
                return share * high + (1 - share) * low
        return self.points[-1][1]
