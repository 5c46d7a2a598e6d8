"""Diagnostics: each detector reads the metrics of a run and says in one line, with a remedy, why the run learns little or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

IN_A_ROW = 3
"""Consecutive steps after which a finding is reported: a single one may be chance."""


@dataclass(frozen=True)
class Finding:
    """What a detector found."""

    name: str
    """The detector's: `diagnostics/NAME` is 1 in the metrics of the step."""
    text: str
    """One line with its remedy."""
    stops: bool = False
    """The run cannot learn anything: it stops."""


class Detector(ABC):
    """Reads the metrics of every step, in order. Its state depends on them alone, so a resumed run replays the kept lines."""

    name: ClassVar[str]

    @abstractmethod
    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """The finding after this step (from 0), or None. Each finding is reported once, and again after it has been absent."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        """The same after a held-out evaluation: metrics by name, without `eval/`."""
        return None

    def finding(self, text: str, *, stops: bool = False) -> Finding:
        return Finding(self.name, text, stops)


class InARow:
    """Counts consecutive steps in which a condition holds."""

    def __init__(self, steps: int = IN_A_ROW):
        self._wanted, self.count = steps, 0

    def reached(self, holds: bool) -> bool:
        """Whether the condition has held for exactly `steps` steps, this one included."""
        self.count = self.count + 1 if holds else 0
        return self.count == self._wanted


class Diagnostics:
    """All detectors of a run, and what they found."""

    def __init__(self, detectors: Sequence[Detector], before: Iterable[Finding] = ()):
        """Args: before: what is found before the first step."""
        self._detectors = detectors
        self.found = list(before)

    def after(self, step: int, metrics: Mapping[str, float]) -> list[Finding]:
        """What is found after this step."""
        return self._kept(detector.after(step, metrics) for detector in self._detectors)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> list[Finding]:
        """What is found after an evaluation."""
        return self._kept(detector.evaluated(step, metrics) for detector in self._detectors)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Read the kept lines of metrics.jsonl of a resumed run."""
        for line in lines:
            numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
            held_out = {name.removeprefix("eval/"): value for name, value in numbers.items() if name.startswith("eval/")}
            if held_out:
                self.evaluated(line["step"], held_out)
            else:
                self.after(line["step"], numbers)

    def _kept(self, found: Iterable[Finding | None]) -> list[Finding]:
        kept = [finding for finding in found if finding is not None]
        self.found += kept
        return kept
