"""Tasks: where prompts (and demonstrations) come from, and how a model's answers are judged at evaluation."""

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
    """Stable over runs and processes."""
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What a reward needs to judge an answer (JSON values only)."""
    answer: str | None = None
    """A demonstration; None where there is only a question."""
    ranked: tuple[str, ...] = ()
    """Answers best first; empty where there is no preference."""
    ranked_names: tuple[str, ...] = field(default=(), compare=False)
    """What the source calls each of `ranked` (`chosen`), for messages."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The question as turns {role, content} for the tokenizer's chat template, and answers are then the assistant's next turn; `text`
    tells the same to a reader. Empty where `text` itself is the prompt."""
    where: str = field(default="", compare=False)
    """File and line, for messages."""

    @property
    def place(self) -> str:
        """What a message calls it."""
        return self.where or f"task: example {self.id}"


class Task(Part, ABC):
    """The contract. The same configuration gives the same examples, in the same order, in every process."""

    too_long: str = "stop"
    """What becomes of a ranking with an answer beyond `sampling.max_tokens`: it may `stop` the run, or be left out whole (`drop`)."""

    @abstractmethod
    def examples(self) -> Sequence[Example]:
        """What is trained on. With answers, it serves SFT; with ranked ones, preferences; without, only algorithms that sample."""

    @abstractmethod
    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        """Held-out problems by the name of what they measure, at most `problems` each."""

    @abstractmethod
    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Metrics of one suite from the answers a model gave to it."""

    def rankings(self) -> Sequence[Example]:
        """Held-out examples with ranked answers, by which the accuracy of a preference is measured."""
        return ()

    def tokenizer(self) -> Any:
        """A transformers tokenizer for a model trained from nothing on this task; None where a model brings its own."""
        return None
