"""Tasks: the source of prompts and demonstrations, and the evaluation of a model's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.config.parts import Part
from align.types import Group


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question before it is tokenized."""

    id: str
    """The same in all runs and processes."""
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Data for the reward (JSON values only)."""
    answer: str | None = None
    """A demonstration, or None."""
    turns: tuple[tuple[str, str], ...] = ()
    """Before the answer of a demonstration: (role, text) of assistant turns, which are trained, each followed by what answers it."""
    ranked: tuple[str, ...] = ()
    """Answers, best first; empty without a preference."""
    labels: tuple[bool, ...] = ()
    """Of each answer in `ranked`, where they are labelled and not ordered: whether it is good. Empty: the first is, the others are not."""
    ranked_names: tuple[str, ...] = field(default=(), compare=False)
    """The source's name for each answer of `ranked`, such as `chosen`, for messages."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The question as turns {role, content} for the tokenizer's chat template; answers are then the assistant's next turn, and `text` is
    a readable form. Empty if `text` itself is the prompt."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template must read beside the turns, such as `tools` or `enable_thinking`; one that it does not read is refused. A
    field of `fields` whose name it reads is given to it too."""
    where: str = field(default="", compare=False)
    """File and line, for messages."""

    @property
    def place(self) -> str:
        """Its name in messages."""
        return self.where or f"task: example {self.id}"


TOO_LONG = ("stop", "drop", "truncate_left")
"""What a task may ask for where a prompt or an answer is too long."""


class Task(Part, ABC):
    """The contract of a task. The same configuration gives the same examples, in the same order, in every process."""

    max_prompt_tokens: int | None = None
    """Tokens of the longest prompt; None: no limit of the task's own."""
    too_long: str = "stop"
    """What to do with a prompt beyond `max_prompt_tokens`, or an answer in the data beyond `sampling.max_tokens`: `stop` the run, `drop`
    the example, or `truncate_left`, which leaves the last tokens of a prompt of plain text."""

    @abstractmethod
    def examples(self) -> Sequence[Example]:
        """The training examples. SFT needs answers, preference losses need ranked answers; algorithms that sample need neither."""

    @abstractmethod
    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        """Held-out problems by the name of their suite, at most `problems` each."""

    @abstractmethod
    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Metrics of one suite from a model's answers."""

    def notes(self) -> Sequence[str]:
        """Lines for the user about the training data, such as what was left out; printed once, before training."""
        return ()

    def rankings(self) -> Sequence[Example]:
        """Held-out examples with ranked answers, to measure preference accuracy."""
        return ()

    def tokenizer(self) -> Any:
        """A transformers tokenizer for a randomly initialised model; None if the model must have its own."""
        return None
