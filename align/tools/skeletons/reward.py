"""A reward: what an answer is worth.

Check it with `align check ./skeleton.py:Skeleton --prompts rows.jsonl`, with rows as your task has them. In a recipe:

    reward: "./skeleton.py:Skeleton"
"""

from align.rewards import Reward
from align.types import Prompt


class Skeleton(Reward):
    """1 for an answer that is the field `answer` of its row, less a price for each character beyond a limit."""

    limit: int = 200
    price: float = 0.001

    def __post_init__(self):
        if self.limit < 0 or self.price < 0:
            raise ValueError("limit and price must be at least 0")

    def score(self, prompt: Prompt, response: str) -> dict[str, float]:
        """A number, or named numbers of which `total` is the reward. The response is text of a model: parse it, and never run it.

        An exception costs the sample, not the run.
        """
        right = float(response.strip() == str(prompt.fields["answer"]).strip())
        long = self.price * max(len(response) - self.limit, 0)
        return {"total": right - long, "right": right, "long": long}
