from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from align.config.nodes import part
from align.errors import UserError
from align.tasks import Example, Task
from align.tasks._fields import distinct, known, missing, name, others, question, template, text, turns, used
from align.tasks._rows import Row, read, shown
from align.types import Group


@dataclass(frozen=True)
class Labelled(Task):
    """Single answers, each labelled good or bad, from JSONL, Parquet or a dataset: `{"prompt": .., "completion": .., "label": true}`.

    For `kto` and `bco`. A prompt is a text or a list of turns {role, content}; an answer is a text, or a list of one turn by the
    assistant. Good answers also serve as demonstrations. Relative paths start at the working directory. Files are read when examples
    are requested. Raises UserError naming file, line and field.
    """

    path: str
    """Training data: a file, a folder that `datasets` loads, or the name of a dataset on the Hub."""
    split: str | None = None
    """Split of a dataset, `train` by default; also `train[:1000]`."""
    subset: str | None = None
    """Configuration of a dataset that has several."""
    prompt: str = "prompt"
    """The field with the question."""
    completion: str = "completion"
    """The field with the answer."""
    label: str = "label"
    """The field that is true for a good answer and false for a bad one; 1 and 0 are read too."""
    id: str | None = "id"
    """The field with the row's id, a string or integer; a row without one is named by its line. null: name all rows by line."""
    too_long: str = "stop"
    """What to do if an answer is longer than `sampling.max_tokens`: `stop` the run, or `drop` the row and count it. Nothing is cut."""
    template: dict[str, Any] | None = None
    """Options of the chat template for every conversation, such as `{enable_thinking: false}`."""
    held_out: Any = part("task", optional=True)
    """A task that gives the held-out problems for the trained model, and the tokenizer of a randomly initialised model."""

    def __post_init__(self):
        named = [self.prompt, self.completion, self.label, *([] if self.id is None else [self.id])]
        if len(set(named)) < len(named):
            raise ValueError(f"prompt, completion, label and id must be different fields, not {', '.join(map(repr, named))}")
        if self.too_long not in ("stop", "drop"):
            raise ValueError(f"too_long must be stop or drop, not {self.too_long!r}")

    def examples(self) -> Sequence[Example]:
        rows = read(self.path, self.split, self.subset)
        for f in fields(self):
            if f.name in ("prompt", "completion", "label", "id") and getattr(self, f.name) not in (f.default, None):
                known(self.path, rows, f.name, getattr(self, f.name))
        return used(self.template, distinct([self._example(row) for row in rows], self.id))

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {} if self.held_out is None else self.held_out.suites(problems)

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Delegates to `held_out`, which has the suites."""
        return self.held_out.judge(suite, groups)

    def tokenizer(self) -> Any:
        return None if self.held_out is None else self.held_out.tokenizer()

    def _example(self, row: Row) -> Example:
        for key, what in (("prompt", "question"), ("completion", "answer"), ("label", "label, true or false,")):
            if getattr(self, key) not in row.values:
                raise missing(row, getattr(self, key), what, key)
        asks, messages = question(row, self.prompt, row.values[self.prompt])
        answer, label = self._answer(row, row.values[self.completion]), self._label(row)
        return Example(
            id=name(row, self.id),
            text=asks,
            messages=messages,
            template=template(row, self.template) if messages else {},
            answer=answer if label else None,
            ranked=(answer,),
            labels=(label,),
            ranked_names=(self.completion,),
            where=row.where,
            fields=others(row, (self.prompt, self.completion, self.label, self.id)),
        )

    def _answer(self, row: Row, value: Any) -> str:
        if not isinstance(value, list):
            return text(row, self.completion, value, "or a list of one turn by the assistant")
        (turn, *more) = turns(row, self.completion, value)
        if more or turn["role"] != "assistant":
            raise UserError(f"{row.where}: {self.completion} must be one turn by the assistant, not {shown(value)}")
        return text(row, self.completion, turn["content"])

    def _label(self, row: Row) -> bool:
        value = row.values[self.label]
        if not isinstance(value, bool) and value not in (0, 1):
            raise UserError(f"{row.where}: {self.label} must be true for a good answer or false for a bad one, not {shown(value)}")
        return bool(value)
