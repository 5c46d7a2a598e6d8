"""Rewards: what an answer is worth. They run time-limited, and one that raises or hangs never costs the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from align.types import Group, Prompt

Answer = float | dict[str, float]
"""The reward of one answer, or its named parts, of which `total` is the reward itself."""


class Reward(ABC):
    """The contract. Model output is data: a reward parses it, never executes it."""

    def start(self) -> None:
        """Load what the reward needs, once, in the process that runs it. Raises UserError where that cannot work: nothing has run yet."""

    @abstractmethod
    def score(self, prompt: Prompt, response: str) -> Answer:
        """The reward of one answer."""

    def score_groups(self, groups: Sequence[Group]) -> list[Answer | Exception]:
        """Of every answer, in order; an exception stands for the answer that failed by it.

        A reward that does better on many answers together overrides this. All of them then have one time limit, so many times as
        long, and whatever is raised fails them all.
        """
        return [self._attempt(g.prompt, r.text) for g in groups for r in g.rollouts]

    def _attempt(self, prompt: Prompt, response: str) -> Answer | Exception:
        try:
            return self.score(prompt, response)
        except Exception as error:
            return error

    @property
    def batched(self) -> bool:
        """It judges many answers together."""
        return type(self).score_groups is not Reward.score_groups
