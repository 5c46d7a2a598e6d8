"""Rewards: what an answer is worth. They run time-limited, and one that raises or hangs never costs the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from align.config.frozen import checked_instance
from align.config.parts import Part
from align.types import Group, Prompt


@dataclass(frozen=True)
class Stepwise:
    """A process reward: the parts of an answer's reward that its steps earn. What is left of the reward is paid at the last token.

    A critic (PPO) learns each step where it stands, so only what was written up to there answers for it. Who has no critic, such as
    GRPO, learns from the reward of the whole answer: the sum.
    """

    steps: Sequence[tuple[int, float]]
    """(character of the response, from 0, reward): paid at the token that writes the character, which the step ends with."""
    answer: float | dict[str, float] | None = None
    """The reward of the whole answer, the steps included; None: their sum."""

    @property
    def total(self) -> float:
        # Not `sum`, which in this module is the part of that name once it is imported.
        return fsum(reward for _, reward in self.steps) if self.answer is None else total(self.answer)


Answer = float | dict[str, float] | Stepwise
"""The reward of one answer, or its named parts, of which `total` is the reward itself, or what its steps have of it."""


def total(answer: Answer) -> float:
    """The reward of the whole answer."""
    if isinstance(answer, Stepwise):
        return answer.total
    return answer["total"] if isinstance(answer, dict) else answer


class Reward(Part, ABC):
    """The contract. Model output is data: a reward parses it, and executes it in a sandbox or never."""

    def start(self) -> Reward:
        """What scores in this process: the reward itself, or an object that holds what it needs, loaded once.

        Raises UserError where that cannot work: nothing has run yet.
        """
        return self

    @property
    def required_fields(self) -> Collection[str]:
        """Fields of a prompt without which it cannot judge. A run refuses rows that lack one, or have null, before it samples anything."""
        return ()

    def refuse_row(self, fields: Mapping[str, Any]) -> str | None:
        """Why it cannot judge answers to a prompt with these fields, all of `required_fields` among them, or None."""
        return None

    def final_answer(self, response: str) -> str | None:
        """What a response answers, by which the evaluation counts votes and distinct answers; None for no answer. By default all of it."""
        return response.strip() or None

    @property
    def finds_answers(self) -> bool:
        """Its `final_answer` looks for something in a response."""
        return type(self).final_answer is not Reward.final_answer

    @abstractmethod
    def score(self, prompt: Prompt, response: str) -> Answer:
        """The reward of one answer; as `Stepwise` also where in the answer it is earned."""

    def score_groups(self, groups: Sequence[Group]) -> Sequence[Answer | Exception]:
        """Of every answer, in order; an exception stands for the answer that failed by it.

        A reward that does better on many answers together overrides this. All of them then have one time limit, so many times as
        long, and whatever is raised fails them all.
        """
        return [self._attempt(g.prompt, e.text) for g in groups for e in g.episodes]

    def _attempt(self, prompt: Prompt, response: str) -> Answer | Exception:
        try:
            return self.score(prompt, response)
        except Exception as error:
            return error

    @property
    def own_seconds(self) -> float:
        """Wall time after which the reward itself ends with an answer, which counts 0 in place of failing; 0: it has no such limit."""
        return 0.0

    @property
    def part_names(self) -> tuple[str, ...] | None:
        """Names of the parts that every answer's reward has; None: they are seen in what `score` returns."""
        return None

    @property
    def batched(self) -> bool:
        """It judges many answers together."""
        return type(self).score_groups is not Reward.score_groups


def start_reward(part: Reward) -> Reward:
    """What the reward's `start` returns. Raises UserError where that is no reward."""
    return checked_instance(part, part.start(), Reward)
