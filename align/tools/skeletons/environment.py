"""An environment: what answers the policy between its turns.

Check it with `align check ./skeleton.py:Skeleton --prompts rows.jsonl`, with rows as your task has them. In a recipe:

    environment: "./skeleton.py:Skeleton"
"""

from __future__ import annotations

import random

from align.environments import Environment, RunningEnvironment, Turn
from align.types import Prompt


class Skeleton(Environment):
    """A game: the policy guesses a number, and hears whether the one that is sought is larger or smaller. The right guess has reward 1."""

    largest: int = 9

    def __post_init__(self):
        if self.largest < 1:
            raise ValueError(f"largest must be at least 1, not {self.largest}")

    def reset(self, prompt: Prompt, seed: int) -> RunningEnvironment:
        """Begin an episode; all its randomness comes from the seed."""
        return RunningSkeleton(random.Random(seed).randint(0, self.largest))


class RunningSkeleton(RunningEnvironment):
    """One episode. It may keep any state."""

    def __init__(self, sought: int):
        self._sought = sought

    def step(self, text: str) -> Turn:
        """The answer to an assistant turn. The text is of a model: parse it, and never run it.

        An exception ends the episode and costs its sample, not the run.
        """
        guess = text.strip()
        if not (guess.isascii() and guess.isdigit() and len(guess) < 10):
            return Turn(text="*", reward=0.0)
        if int(guess) == self._sought:
            return Turn(done=True, reward=1.0)
        return Turn(text="+" if int(guess) < self._sought else "-", reward=0.0)
