import math
from dataclasses import dataclass

from align.coefficients._schedule import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """beta(step) on half a cosine from `start` to `end`: `end + (start - end) (1 + cos(pi min(step/steps, 1)))/2`, after the warm-up."""

    def share(self, done: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * done))
