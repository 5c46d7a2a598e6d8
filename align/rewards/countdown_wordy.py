import math
from dataclasses import dataclass

from align.rewards import Reward
from align.tasks._arithmetic import right
from align.types import Prompt


@dataclass(frozen=True)
class CountdownWordy(Reward):
    """Stands for a reward model that likes long answers: `exact + per_character * length`, length in characters.

    Raises ValueError on the prompts of tasks other than countdown.
    """

    per_character: float = 0.02

    def __post_init__(self):
        if not (math.isfinite(self.per_character) and self.per_character > 0):
            raise ValueError(f"per_character must be positive, not {self.per_character}; the reward without it is countdown_exact")

    def score(self, prompt: Prompt, response: str) -> dict[str, float]:
        exact = float(right(prompt.fields, response))
        return {"total": exact + self.per_character * len(response), "exact": exact, "length": float(len(response))}
