from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from align.errors import UserError
from align.tasks import Example, Task
from align.tasks._fields import distinct, known, missing, name, others, question, template, used
from align.tasks._rows import Row, read, refuse_overlap, shown
from align.types import Group


@dataclass(frozen=True)
class Jsonl(Task):
    """Your own prompts: one JSON object per line, Parquet, or a Hugging Face dataset. Answers serve as demonstrations, or for the reward
    `match`.

    A prompt is plain text, or a list of turns {role, content} for the model's chat template. The reward gets a row's other fields, and
    `answer` if the row has one. Example: `{"prompt": "2+2=", "answer": "4", "id": "easy-1", "level": 3}`. Relative paths start at the
    working directory. Files are read when `examples` or `suites` is called. Raises UserError naming file and line.
    """

    path: str
    """Training data: a file, a folder that `datasets` loads, or the name of a dataset on the Hub."""
    split: str | None = None
    """Split of a dataset, `train` by default; also `train[:1000]`."""
    subset: str | None = None
    """Configuration of a dataset that has several; used for the held-out dataset too."""
    eval_path: str | None = None
    """Held-out rows, the suite `eval`; the first `evaluation.problems` are used. With only eval_split, `path` itself."""
    eval_split: str | None = None
    prompt: str = "prompt"
    """The field with the question: a string that is not blank, or turns."""
    answer: str = "answer"
    """The field with the answer, a string; optional in each row."""
    id: str = "id"
    """The field with the row's id, a string or integer; a row without one is named by its line."""

    template: dict[str, Any] | None = None
    """Options of the chat template for every conversation, such as `{enable_thinking: false}`. A row's own come before them: its columns
    `tools`, `chat_template_kwargs` (an object), and any other whose name the template reads."""

    def __post_init__(self):
        if len({self.prompt, self.answer, self.id}) < 3:
            raise ValueError(f"prompt, answer and id must be three fields, not {self.prompt!r}, {self.answer!r} and {self.id!r}")
        refuse_overlap(self.path, self.split, self.eval_path, self.eval_split)

    def examples(self) -> Sequence[Example]:
        rows = read(self.path, self.split, self.subset)
        for f in fields(self):
            if f.name in ("answer", "id") and getattr(self, f.name) != f.default:
                known(self.path, rows, f.name, getattr(self, f.name))
        return used(self.template, self._examples(rows))

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        if self.eval_path is None and self.eval_split is None:
            return {}
        return {"eval": self._examples(read(self.eval_path or self.path, self.eval_split, self.subset))[:problems]}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over responses.

        `length`: tokens, end token included; `exact_match`, over the rows with an answer: the response equals the answer, ignoring
        surrounding white space.
        """
        answered = [(g.prompt.fields.get("answer"), e) for g in groups for e in g.episodes]
        metrics = {"length": fmean(e.length for _, e in answered)}
        matches = [e.text.strip() == answer.strip() for answer, e in answered if answer is not None]
        return metrics | ({"exact_match": fmean(matches)} if matches else {})

    def _examples(self, rows: Sequence[Row]) -> list[Example]:
        return distinct([self._example(row) for row in rows], self.id)

    def _example(self, row: Row) -> Example:
        if self.prompt not in row.values:
            raise missing(row, self.prompt, "question", "prompt")
        text, messages = question(row, self.prompt, row.values[self.prompt])
        answer = row.values.get(self.answer)
        if not isinstance(answer, str | None):
            raise UserError(f"{row.where}: {self.answer} must be a string, not {shown(answer)}; put it in quotes")
        travelling = others(row, (self.prompt, self.answer, self.id, "answer"))
        return Example(
            id=name(row, self.id),
            text=text,
            messages=messages,
            template=template(row, self.template) if messages else {},
            answer=answer,
            where=row.where,
            fields=travelling if answer is None else {**travelling, "answer": answer},
        )
