from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config.nodes import part
from align.rewards import Answer, Reward, start_reward
from align.types import Group, Prompt


@dataclass(frozen=True)
class Learned(Reward):
    """A reward model's score, such as `algorithm: reward_model` trains from preferences; batched, on a GPU where its worker has one.

    The scorer's own tokenizer reads the text of prompt and answer, and its end token follows where the answer was finished. A
    conversation is written by the scorer's own chat template, if it has one. An answer cannot spell special tokens, but tags
    (`<think>`) that the scorer has tokens for. Of more tokens than the model has positions the last are read.
    """

    path: str
    """A folder that AutoModelForSequenceClassification loads, with one output. A relative one starts where that of `model.path` does."""
    gold: Any = part("reward", optional=True)
    """The true reward, measured beside the learned one and never trained on: `reward/gold` and `reward/learned` show the gap."""
    max_batch: int = 64
    """Answers in one forward pass."""
    dtype: str = "float32"
    """float32 or bfloat16."""

    def __post_init__(self):
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {self.max_batch}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, not {self.dtype!r}")
        # A worker's working directory is another one.
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    @property
    def required_fields(self) -> Collection[str]:
        return () if self.gold is None else self.gold.required_fields

    def refuse_row(self, fields: Mapping[str, Any]) -> str | None:
        return None if self.gold is None else self.gold.refuse_row(fields)

    @property
    def finds_answers(self) -> bool:
        return self.gold is not None and self.gold.finds_answers

    def final_answer(self, response: str) -> str | None:
        return super().final_answer(response) if self.gold is None else self.gold.final_answer(response)

    def start(self) -> Reward:
        """Raises UserError where the folder holds no scorer, no tokenizer, or neither says what pads a batch."""
        from align.rewards._scorer import LoadedScorer  # noqa: PLC0415  (transformers takes seconds to import)

        return LoadedScorer(self.path, self.dtype, self.max_batch, None if self.gold is None else start_reward(self.gold))

    def score(self, prompt: Prompt, response: str) -> Answer:
        """Of a finished answer. Loads the model for this call; what `start` returns keeps it."""
        return self.start().score(prompt, response)

    def score_groups(self, groups: Sequence[Group]) -> Sequence[Answer | Exception]:
        return self.start().score_groups(groups)
