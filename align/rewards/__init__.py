"""Rewards: what an answer is worth. They run time-limited, and one that raises or hangs never costs the run."""

from __future__ import annotations

from abc import ABC, abstractmethod

from align.types import Prompt


class Reward(ABC):
    """The contract. Model output is data: a reward parses it, never executes it."""

    @abstractmethod
    def score(self, prompt: Prompt, response: str) -> float | dict[str, float]:
        """The reward of one answer, or its named parts, of which `total` is the reward itself."""
