"""Groups with a signal: those whose answers do not all have the same reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, compress

import numpy as np

from align.types import Group, Rewards


def with_signal(groups: Sequence[Group], rewards: Rewards, by_parts: bool = False) -> list[bool]:
    """Whether each group's rewards differ, as they were judged. Args: by_parts: rewards whose named parts differ do so too.

    For rewards of 0 and 1 it is 0 < #correct < G (DAPO, Yu et al. 2503.14476, equation 11). An answer whose reward failed is not compared.
    """
    columns = [rewards.values, *(rewards.parts.values() if by_parts else ())]
    ends = list(accumulate(len(g.episodes) for g in groups))
    found = []
    for first, end in zip([0, *ends], ends, strict=False):
        judged = ~np.isnan(rewards.values[first:end])
        found.append(any(len(np.unique(column[first:end][judged])) > 1 for column in columns))
    return found


def chosen(groups: Sequence[Group], rewards: Rewards, keep: Sequence[bool]) -> tuple[list[Group], Rewards]:
    """The groups to keep and their rewards. The count of failed rewards stays that of all."""
    answers = np.repeat(np.array(keep, dtype=bool), [len(g.episodes) for g in groups])
    return list(compress(groups, keep)), replace(
        rewards,
        values=rewards.values[answers],
        parts={name: part[answers] for name, part in rewards.parts.items()},
        step_rewards=tuple(compress(rewards.step_rewards, answers)),
        turn_rewards=tuple(compress(rewards.turn_rewards, answers)),
    )
