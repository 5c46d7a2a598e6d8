"""A weighting leaves nothing of its regularizer."""

from __future__ import annotations

from collections.abc import Mapping

from align.config.docstrings import format_part
from align.regularizers import Regularizer
from align.run.diagnostics import IN_A_ROW, Detector, Finding, InARow


class Weightless(Detector):
    """The weighting of a regularizer is 0 on every token."""

    name = "weightless"

    def __init__(self, regularizers: Mapping[str, Regularizer]):
        self._weightings = {name: r.weighting for name, r in regularizers.items()}
        self._rows = {name: InARow() for name in regularizers}

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        reached = [name for name, row in self._rows.items() if row.reached(metrics.get(f"weighted/{name}") == 0)]
        if not reached:
            return None
        parts = ", ".join(f"{format_part(self._weightings[name])} of regularizers.{name}" for name in reached)
        return self.finding(
            f"step {step}: in {IN_A_ROW} steps in a row the weighting {parts} was 0 on every token, so the regularizer had no effect: "
            "change the weighting's keys, use `weighting: uniform`, or leave the regularizer out"
        )
