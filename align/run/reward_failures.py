"""Stops a run whose rewards fail persistently."""

from __future__ import annotations

import numpy as np

from align.errors import RunStopped
from align.types import Rewards

IN_A_ROW = 3
"""Steps in a row with only failed rewards that stop a run."""


class RewardFailures:
    """Counts consecutive steps in which the reward of every sample failed."""

    def __init__(self):
        self._steps = 0

    def check(self, step: int, rewards: Rewards | None) -> None:
        """Raises RunStopped if every reward failed in the first step, or in IN_A_ROW consecutive steps."""
        if rewards is None or rewards.failed < len(rewards.values) or not np.isnan(rewards.values).all():
            self._steps = 0
            return
        self._steps += 1
        if self._steps == IN_A_ROW or step == 0:
            span = "this step" if step == 0 else f"{IN_A_ROW} steps in a row"
            raise RunStopped(
                f"step {step}: the reward failed for every answer of {span} ({rewards.first_failure}), so nothing is learned; "
                "`align check REWARD` tests it on answers of every kind: fix it, then resume"
            )
