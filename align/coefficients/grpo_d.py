from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import not_negative


@dataclass(frozen=True)
class GrpoD(Coefficient):
    """GRPO-D's schedule (Liu et al. 2503.16081, OThink-MR1): first down from the middle to `minimum`, then up to `maximum`.

    With w = warm_share * steps and mid = (minimum + maximum)/2: `mid - (mid - minimum) s/w` up to step w, then
    `minimum + (maximum - minimum) (s - w)/(steps - w)`, and `maximum` from `steps` on. That is the formula as published,
    read from a text dump of the paper; its prose says "start small and gradually grow", which is `monotone: true`:
    `minimum + (maximum - minimum) s/steps`.
    """

    minimum: float
    """In the paper 0.04 for counting, 0 for geometry."""
    maximum: float
    """In the paper 0.1 for counting, 0.02 for geometry."""
    steps: int
    warm_share: float = 0.3
    monotone: bool = False

    def __post_init__(self):
        not_negative(self, "minimum", "maximum")
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum} must be below maximum {self.maximum}")
        if self.steps < 1 or not 0 < self.warm_share < 1:
            raise ValueError("steps must be at least 1 and warm_share must lie in (0, 1)")
        if self.monotone and self.warm_share != type(self).warm_share:
            raise ValueError("warm_share changes nothing with monotone: true")

    def beta(self, step: int, state: State) -> float:
        warm = 0.0 if self.monotone else self.warm_share * self.steps
        if step < warm:
            low, high, share = (self.minimum + self.maximum) / 2, self.minimum, step / warm
        else:
            low, high, share = self.minimum, self.maximum, min((step - warm) / (self.steps - warm), 1.0)
        return share * high + (1 - share) * low
