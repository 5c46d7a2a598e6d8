from dataclasses import dataclass

from align.coefficients._schedule import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """beta(step) on a straight line from `start` to `end`: `start + (end - start) min(step/steps, 1)`, after the warm-up."""

    def share(self, done: float) -> float:
        return done
