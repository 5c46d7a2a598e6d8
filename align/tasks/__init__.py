"""Tasks: where prompts (and demonstrations) come from, and how a model's answers are judged at evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


class Task(ABC):
    """The contract. The same configuration gives the same examples, in the same order, in every process."""

    @abstractmethod
    def examples(self) -> Sequence[Example]:
        """What is trained on. With answers, it serves SFT; without, only algorithms that sample."""

    @abstractmethod
    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        """Held-out problems by the name of what they measure, at most `problems` each."""

    @abstractmethod
    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Metrics of one suite from the answers a model gave to it."""

    def tokenizer(self) -> Any:
        """A transformers tokenizer for a model trained from nothing on this task; None where a model brings its own."""
        return None
