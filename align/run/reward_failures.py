"""When rewards that fail are no accident any more."""

from __future__ import annotations

import numpy as np

from align.errors import RunStopped
from align.types import Rewards

IN_A_ROW = 3
"""Steps."""


class RewardFailures:
    """Counts the steps in a row of which no sample was left because its reward failed."""

    def __init__(self):
        self._steps = 0

    def check(self, step: int, rewards: Rewards | None) -> None:
        """Raises RunStopped where every reward failed: in the first step of all, or in step after step."""
        if rewards is None or rewards.failed < len(rewards.values) or not np.isnan(rewards.values).all():
            self._steps = 0
            return
        self._steps += 1
        if self._steps == IN_A_ROW or step == 0:
            span = "this step" if step == 0 else f"{IN_A_ROW} steps in a row"
            raise RunStopped(
                f"step {step}: the reward failed for every answer of {span} ({rewards.first_failure}), so nothing is learned; "
                "`align check REWARD` shows what it does with answers of every kind: mend it, then go on"
            )
