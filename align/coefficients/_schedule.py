"""What the schedules of two numbers share: their keys, the warm-up and the ends."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from align.coefficients import Coefficient, State
from align.coefficients._checks import not_negative


@dataclass(frozen=True)
class Schedule(Coefficient):
    start: float
    end: float
    steps: int
    """From start to end, after the warm-up; beta stays at end from then on."""
    warmup: int = 0
    """Steps in which beta first rises linearly to start; the first of them is not 0."""

    def __post_init__(self):
        not_negative(self, "start", "end")
        if self.steps < 1 or self.warmup < 0:
            raise ValueError("steps must be at least 1 and warmup at least 0")
        if self.start == self.end:
            raise ValueError("start equals end, so steps changes nothing: use constant, or warmup")
        if self.warmup and not self.start:
            raise ValueError("warmup changes nothing where start is 0")

    @property
    def schedule_steps(self) -> float:
        return self.warmup + self.steps

    def beta(self, step: int, state: State) -> float:
        if step < self.warmup:
            return self.start * (step + 1) / self.warmup
        share = self.share(min((step - self.warmup) / self.steps, 1.0))
        return share * self.end + (1 - share) * self.start

    @abstractmethod
    def share(self, done: float) -> float:
        """How much of the way is gone after this share of the steps, both from 0 to 1."""
