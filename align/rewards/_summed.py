"""A sum of rewards at work: what `sum` starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.rewards import Answer, Reward, Stepwise, total
from align.types import Group, Prompt


def combined(answers: Mapping[str, Answer], weights: Mapping[str, float]) -> Answer:
    """The weighted sum as `total`, each reward under its name, its own parts as NAME/PART, and the weighted steps if any has steps."""
    parts = {"total": sum(weights[name] * total(answer) for name, answer in answers.items())}
    steps: list[tuple[int, float]] = []
    for name, answer in answers.items():
        parts[name] = total(answer)
        if isinstance(answer, Stepwise):
            steps += [(at, weights[name] * reward) for at, reward in answer.steps]
            answer = {} if answer.answer is None else answer.answer
        if isinstance(answer, dict):
            parts |= {f"{name}/{inner}": value for inner, value in answer.items() if inner != "total"}
    return Stepwise(steps=sorted(steps), answer=parts) if steps else parts


class Summed(Reward):
    """Judges one answer at a time."""

    def __init__(self, running: Mapping[str, Reward], weights: Mapping[str, float]):
        self._running, self._weights = running, weights

    def score(self, prompt: Prompt, response: str) -> Answer:
        return combined({name: reward.score(prompt, response) for name, reward in self._running.items()}, self._weights)


class SummedTogether(Summed):
    """Judges many answers together, because one of its rewards does."""

    def score_groups(self, groups: Sequence[Group]) -> list[Answer | Exception]:
        columns = [reward.score_groups(groups) for reward in self._running.values()]
        return [self._of_answer(row) for row in zip(*columns, strict=True)]

    def _of_answer(self, row: Sequence[Answer | Exception]) -> Answer | Exception:
        answers: dict[str, Answer] = {}
        for name, answer in zip(self._running, row, strict=True):
            if isinstance(answer, Exception):
                return answer
            answers[name] = answer
        return combined(answers, self._weights)
