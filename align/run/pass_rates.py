"""The pass rate of each training prompt, from the rewards of its answers: the state of a run by which a curriculum draws prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from align.config.schema import Recipe
from align.types import Group, Rewards

Rates = Mapping[str, tuple[int, float]]
"""By the id of a prompt that was tried: the number of answers so far, and the pass rate."""


class PassRates:
    """The pass rates before each step.

    An answer passes with a reward of at least `correct`; one whose reward failed (NaN) is not counted. A visit is a group with an answer
    that counts, and `memory` is as in `Curriculum`. Examples of the same id share their rate.
    """

    def __init__(self, memory: float, correct: float):
        self._memory, self._correct = memory, correct
        self._before: dict[int, Rates] = {0: {}}

    def before(self, step: int, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Before this step, of each of the prompts: the pass rate, float64 [N], NaN where it was never tried, and the number of answers so
        far, int64 [N]. Neither can be written to."""
        found = [self._before[step].get(prompt, (0, np.nan)) for prompt in ids]
        passed, tried = np.array([rate for _, rate in found], dtype=np.float64), np.array([n for n, _ in found], dtype=np.int64)
        passed.flags.writeable = tried.flags.writeable = False
        return passed, tried

    def record(self, step: int, completed: int, groups: Sequence[Group], rewards: Rewards) -> None:
        """Record the answers of this step. They count once the step is completed: a checkpoint before that has the rates before it.

        Args: completed: the number of completed steps, of which a checkpoint would be.
        """
        following = dict(self._before[step])
        ends = list(accumulate(len(g.episodes) for g in groups))[:-1]
        for group, values in zip(groups, np.split(rewards.values.astype(np.float64), ends), strict=True):
            verdicts = values[~np.isnan(values)] >= self._correct
            if len(verdicts):
                tried, rate = following.get(group.prompt.id, (0, None))
                share = float(verdicts.mean())
                rate = share if rate is None else self._memory * rate + (1 - self._memory) * share
                following[group.prompt.id] = (tried + len(verdicts), rate)
        kept = {earlier: self._before[earlier] for earlier in (completed, step) if earlier in self._before}
        self._before = kept | {step + 1: following}

    def state_dict(self, completed: int) -> dict[str, list[Any]]:
        """The rates after so many completed steps, as JSON values: by prompt, [answers, rate]."""
        return {prompt: list(found) for prompt, found in self._before[completed].items()}

    def load_state_dict(self, completed: int, state: Mapping[str, Sequence[Any]]) -> None:
        """The rates of a checkpoint of so many completed steps."""
        self._before = {completed: {prompt: (int(tried), float(rate)) for prompt, (tried, rate) in state.items()}}


def pass_rates_of(recipe: Recipe) -> PassRates | None:
    """The pass rates of a run that has drawn nothing; None without a curriculum, which refuses `evaluation.correct: null`."""
    curriculum, correct = recipe.curriculum, recipe.evaluation.correct
    return None if curriculum is None or correct is None else PassRates(curriculum.memory, correct)
