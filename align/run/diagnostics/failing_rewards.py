"""The rewards of many answers fail."""

from __future__ import annotations

from collections.abc import Mapping

from align.run.diagnostics import IN_A_ROW, Detector, Finding, InARow

MANY = 0.1
"""Share of failed rewards that is reported."""


class FailingRewards(Detector):
    """At least a tenth of the answers have no reward of their own. `align.run.reward_failures` stops a run in which all fail."""

    name = "failing_rewards"

    def __init__(self):
        self._many = InARow()

    def after(self, step: int, metrics: Mapping[str, float]) -> Finding | None:
        share = metrics["reward/failed"] / metrics["answers"] if metrics.get("answers") and "reward/failed" in metrics else 0.0
        if not self._many.reached(share >= MANY):
            return None
        return self.finding(
            f"step {step}: in {IN_A_ROW} steps in a row the reward failed for at least {MANY:.0%} of the answers (here {share:.0%}), and "
            "what is learned leans towards the others: `align check REWARD` tests it on answers of every kind; reward_limits.seconds is "
            "its time limit"
        )
