from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from align.tasks._rows import Row, read
from align.tasks.jsonl import Jsonl


@dataclass(frozen=True)
class Gsm8k(Jsonl):
    """GSM8K, grade-school mathematics in words (Cobbe et al. 2021, 2110.14168): the question is asked as the user's turn, the answer is the
    number behind `####`, and the held-out problems are those of its test split.

    `path` is the dataset on the Hub, a folder in its layout, or a file of its rows, whose held-out rows are then `eval_path` or
    `eval_share`. A base model without chat template needs `chat: false` and `system: null`.
    """

    path: str = "openai/gsm8k"
    """The dataset on the Hub, a local folder that `datasets` loads, or a file of rows {question, answer}."""
    subset: str | None = None
    """Configuration of the dataset; null: `main` on the Hub and in a folder that has it."""
    prompt: str = "question"
    """The field with the question."""
    extract: str | None = "hash_marks"
    chat: bool = True
    system: str | None = "Think step by step, then write the final answer, a number, after ####."
    """The system's turn, which says how the answer is to be marked; null: none."""

    suite: ClassVar[str] = "gsm8k"
    whole: ClassVar[str | None] = "main"
    """The configuration with all problems."""

    def _read(self, held_out: bool) -> list[Row]:
        path = self.eval_path or self.path if held_out else self.path
        if os.path.isfile(path):
            return read(path, self.eval_split if held_out else self.split, self.subset)
        split = (self.eval_split or ("test" if self.eval_path is None else None)) if held_out else self.split
        return read(path, split, self.subset or (self.whole if _has(path, self.whole) else None))

    def _holds_out(self) -> bool:
        return super()._holds_out() or not os.path.isfile(self.path)


def _has(path: str, subset: str | None) -> bool:
    """Whether a dataset has a configuration: one of the Hub has its own; a folder needs a folder of that name."""
    return subset is not None and (not os.path.isdir(path) or Path(path, subset).is_dir())
