from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from align.config.parts import Setting
from align.config.ranges import Positive
from align.rewards import Answer, Reward
from align.rewards._answers import boxed, extraction, last_number
from align.rewards._math_process import MathProcess, MathReward
from align.types import Prompt


@dataclass(frozen=True)
class Math(Reward):
    r"""1 if the answer equals the row's as mathematics (`\frac{1}{2}`, `0.5` and `1/2`; sets, intervals, matrices, equations), else 0.

    It is the package math-verify (`pip install 'align[math]'`), in a process of its own. The part `answered` is 1 where an answer is
    found. A comparison over its time or memory limit counts as wrong, and its part `unjudged` is 1: such an answer comes from the policy,
    which must not gain by writing one. Raises ValueError where the row's own answer cannot be read.
    """

    extract: str = "whole"
    """Where the answer is looked for, as in `exact_match`. `whole`: math-verify looks in the whole response, first for `\\boxed{...}`."""
    field: str = "answer"
    """The row's field with the answer: LaTeX, or a solution with its answer in `\\boxed{...}`."""
    seconds: Positive = 3.0
    """Time limit for one comparison, below `reward_limits.seconds`."""

    def __post_init__(self):
        try:
            extraction(self.extract)
        except ValueError as error:
            raise ValueError(f"extract: {error}") from error

    @property
    def required_fields(self) -> Collection[str]:
        return (self.field,)

    @property
    def own_seconds(self) -> float:
        return self.seconds

    def refuse(self, setting: Setting) -> str | None:
        limit = setting.recipe.reward_limits.seconds
        if self.seconds >= limit:
            return (
                f"seconds {self.seconds:g} must be below reward_limits.seconds {limit:g}, or a slow comparison fails instead of counting 0"
            )
        return None

    def start(self) -> Reward:
        """Raises UserError where math-verify is not installed."""
        return MathReward(extraction(self.extract) if self.extract != "whole" else None, self.field, MathProcess(self.seconds))

    def final_answer(self, response: str) -> str | None:
        """As text: votes for `0.5` and `1/2` are two."""
        found = (boxed(response) or last_number(response)) if self.extract == "whole" else extraction(self.extract)(response)
        return found or None

    def score(self, prompt: Prompt, response: str) -> Answer:
        """Starts a process for this call; what `start` returns keeps it."""
        return self.start().score(prompt, response)
