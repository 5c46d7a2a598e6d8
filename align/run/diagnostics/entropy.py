"""The policy has become nearly deterministic."""

from __future__ import annotations

from collections.abc import Mapping

from align.run.diagnostics import Detector, Finding, InARow

COLLAPSED = 0.05
"""Share of the first step's entropy below which it has collapsed."""


class EntropyCollapse(Detector):
    """The entropy a token falls to a twentieth of the first step's."""

    name = "entropy"

    def __init__(self):
        self._first: float | None = None
        self._low = InARow()

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        if "entropy" not in metrics:
            return None
        entropy = metrics["entropy"]
        self._first = entropy if self._first is None else self._first
        if not self._low.reached(entropy < COLLAPSED * self._first):
            return None
        return self.finding(
            f"step {step}: the entropy fell from {self._first:.3g} to {entropy:.3g} nats a token, so the answers to a prompt hardly differ "
            "and little more can be learned: a larger coefficient of a regularizer, the shaping entropy_bonus, or a smaller optimizer.lr "
            "keeps it"
        )
