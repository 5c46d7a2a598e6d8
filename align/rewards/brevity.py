from dataclasses import dataclass

from align.config.ranges import AtLeastOne
from align.rewards import Reward
from align.types import Prompt


@dataclass(frozen=True)
class Brevity(Reward):
    """1 for no text, less by 1/characters for each character, and 0 from `characters` on: a second objective beside a task's own."""

    characters: AtLeastOne = 24

    def score(self, prompt: Prompt, response: str) -> float:
        return max(1 - len(response) / self.characters, 0.0)
