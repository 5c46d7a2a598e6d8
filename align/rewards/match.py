from collections.abc import Collection

from align.rewards import Reward
from align.types import Prompt


class Match(Reward):
    """1 if the response is the prompt's `answer` field, white space around either aside, else 0. Raises ValueError without one."""

    @property
    def required_fields(self) -> Collection[str]:
        return ("answer",)

    def score(self, prompt: Prompt, response: str) -> float:
        answer = prompt.fields.get("answer")
        if not isinstance(answer, str):
            raise ValueError(f"prompt {prompt.id} has no answer to match: give its row one, or use another reward")
        return float(response.strip() == answer.strip())
