from __future__ import annotations

from collections.abc import Collection

from align.rewards import Reward
from align.tasks._generators import score
from align.types import Prompt


class ReasoningGym(Reward):
    """What the generator's verifier gives the last `<answer>...</answer>` of a response to a problem of the task `reasoning_gym`, from 0 to
    1; 0 for a response without one."""

    @property
    def required_fields(self) -> Collection[str]:
        return ("generator", "options", "size", "seed", "index")

    def score(self, prompt: Prompt, response: str) -> float:
        return score(prompt.fields, response)
