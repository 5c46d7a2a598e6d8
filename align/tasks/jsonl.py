from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from align.errors import UserError
from align.tasks import Example, Task
from align.tasks._fields import distinct, known, missing, name, others, question
from align.tasks._rows import Row, read, refuse_overlap, shown
from align.types import Group


@dataclass(frozen=True)
class Jsonl(Task):
    """Your own prompts, one JSON object a line, or Parquet, or a Hugging Face dataset. With answers they serve as demonstrations or for
    `match`.

    A prompt is plain text, or a list of turns {role, content} for the model's chat template. A row's other fields travel with its
    prompt, for the reward; `answer` there is always the row's answer, if it has one. Examples:
    `{"prompt": "2+2=", "answer": "4", "id": "easy-1", "level": 3}`. Relative paths start at the working directory.
    Files are read when examples are asked for. Raises UserError naming file and line.
    """

    path: str
    """What is trained on: a file, a folder that `datasets` loads, or the name of a dataset of the Hub."""
    split: str | None = None
    """Of a dataset, `train` where none is given; also `train[:1000]`."""
    subset: str | None = None
    """Of a dataset that has several configurations; of the held-out one too."""
    eval_path: str | None = None
    """Held-out rows, the suite `eval`; the first `evaluation.problems` of them are used. With eval_split alone, `path` itself."""
    eval_split: str | None = None
    prompt: str = "prompt"
    """The field that holds the question, a string that is not blank, or turns."""
    answer: str = "answer"
    """The field that holds the answer, a string; rows may lack it."""
    id: str = "id"
    """The field that names the row, a string or integer; a row without is named by its line."""

    def __post_init__(self):
        if len({self.prompt, self.answer, self.id}) < 3:
            raise ValueError(f"prompt, answer and id must be three fields, not {self.prompt!r}, {self.answer!r} and {self.id!r}")
        refuse_overlap(self.path, self.split, self.eval_path, self.eval_split)

    def examples(self) -> Sequence[Example]:
        rows = read(self.path, self.split, self.subset)
        for f in fields(self):
            if f.name in ("answer", "id") and getattr(self, f.name) != f.default:
                known(self.path, rows, f.name, getattr(self, f.name))
        return self._examples(rows)

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        if self.eval_path is None and self.eval_split is None:
            return {}
        return {"eval": self._examples(read(self.eval_path or self.path, self.eval_split, self.subset))[:problems]}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over responses.

        `length`: tokens, the end token included; `exact_match`, over the rows with an answer: the response is that answer, white
        space around either aside.
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
            answer=answer,
            where=row.where,
            fields=travelling if answer is None else {**travelling, "answer": answer},
        )
