from align.rewards import Reward
from align.tasks._arithmetic import right
from align.types import Prompt


class CountdownExact(Reward):
    """The gold verifier of the task countdown: 1 for a right answer, 0 for any other text. Raises ValueError on other tasks."""

    def score(self, prompt: Prompt, response: str) -> float:
        return float(right(prompt.fields, response))
