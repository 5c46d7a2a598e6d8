"""The training reward rises while the held-out result falls."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from align.run.diagnostics import Detector, Finding

FALLS = 2
"""Consecutive evaluations with a lower held-out result and a higher training reward that are reported."""
NOTABLE = 0.02
"""The least fall, over these evaluations together, of a share."""
RESULTS = ("pass@1", "accuracy")
"""Ends of the names of held-out results."""


class Overfitting(Detector):
    """Compares the first suite's result at each evaluation with the mean reward of the steps since the evaluation before."""

    name = "overfitting"

    def __init__(self):
        self._rewards: list[float] = []
        self._seen: list[tuple[float, float]] = []

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        if "reward/mean" in metrics:
            self._rewards.append(metrics["reward/mean"])
        return None

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        name = next((name for name in metrics if name.endswith(RESULTS)), None)
        if name is None or not self._rewards:
            return None
        self._seen.append((sum(self._rewards) / len(self._rewards), metrics[name]))
        self._rewards = []
        last = self._seen[-FALLS - 1 :]
        pairs = list(pairwise(last))
        apart = len(pairs) == FALLS and all(b[0] > a[0] and b[1] < a[1] for a, b in pairs)
        if not apart or last[0][1] - last[-1][1] < NOTABLE:
            return None
        self._seen = self._seen[-1:]
        return self.finding(
            f"step {step}: over {FALLS} evaluations the training reward rose from {last[0][0]:.3g} to {last[-1][0]:.3g} while the held-out "
            f"{name} fell from {last[0][1]:.3g} to {last[-1][1]:.3g}: stop here and take the checkpoint before, use more or other prompts, "
            "or a larger coefficient of a regularizer"
        )
