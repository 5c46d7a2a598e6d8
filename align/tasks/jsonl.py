from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from align.errors import UserError
from align.tasks import Example, Task
from align.types import Group


@dataclass(frozen=True)
class Jsonl(Task):
    """Your own prompts, one JSON object a line, as plain text. With answers they serve as demonstrations or for `match`.

    A row's other fields travel with its prompt, for the reward; `answer` there is always the row's answer, if it has one.
    Examples: `{"prompt": "2+2=", "answer": "4", "id": "easy-1", "level": 3}`. Relative paths start at the working directory.
    Files are read when examples are asked for. Raises UserError naming file and line.
    """

    path: str
    """What is trained on."""
    eval_path: str | None = None
    """Held-out rows, the suite `eval`; the first `evaluation.problems` of them are used."""
    prompt: str = "prompt"
    """The field that holds the question, a string that is not blank."""
    answer: str = "answer"
    """The field that holds the answer, a string; rows may lack it."""
    id: str = "id"
    """The field that names the row, a string or integer; a row without is named by its line."""

    def __post_init__(self):
        if len({self.prompt, self.answer, self.id}) < 3:
            raise ValueError(f"prompt, answer and id must be three fields, not {self.prompt!r}, {self.answer!r} and {self.id!r}")

    def examples(self) -> Sequence[Example]:
        rows = _rows(self.path)
        for f in fields(self):
            wanted = getattr(self, f.name)
            if f.name in ("answer", "id") and wanted != f.default and not any(wanted in row for row in rows.values()):
                raise UserError(f"{self.path}: no row has the field {wanted!r} that task.{f.name} names; "
                                f"the first row has: {', '.join(next(iter(rows.values())))}")
        return self._examples(self.path, rows)

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {} if self.eval_path is None else {"eval": self._examples(self.eval_path, _rows(self.eval_path))[:problems]}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over responses.

        `length`: tokens, the end token included; `exact_match`, over the rows with an answer: the response is that answer, white
        space around either aside.
        """
        rollouts = [(g.prompt.fields.get("answer"), r) for g in groups for r in g.rollouts]
        metrics = {"length": fmean(len(r.token_ids) for _, r in rollouts)}
        matches = [r.text.strip() == answer.strip() for answer, r in rollouts if answer is not None]
        return metrics | ({"exact_match": fmean(matches)} if matches else {})

    def _examples(self, path: str, rows: dict[int, dict[str, Any]]) -> list[Example]:
        lines: dict[str, int] = {}
        examples = []
        for line, row in rows.items():
            example = self._example(row, line, f"{path}, line {line}")
            if example.id in lines:
                raise UserError(f"{path}, line {line}: has the same {self.id} as line {lines[example.id]}, {example.id!r}; ids must differ")
            lines[example.id] = line
            examples.append(example)
        return examples

    def _example(self, row: dict[str, Any], line: int, where: str) -> Example:
        if self.prompt not in row:
            raise UserError(f"{where}: has no field {self.prompt!r}; name the one that holds the question with task.prompt; "
                            f"the row has: {', '.join(row) or 'none'}")
        prompt, answer, name = row[self.prompt], row.get(self.answer), row.get(self.id)
        if not isinstance(prompt, str):
            raise UserError(f"{where}: {self.prompt} must be a string, not {json.dumps(prompt)[:40]}")
        if not prompt.strip():
            raise UserError(f"{where}: {self.prompt} is empty; give it text or delete the row")
        if not isinstance(answer, str | None):
            raise UserError(f"{where}: {self.answer} must be a string, not {json.dumps(answer)[:40]}; put it in quotes")
        if not isinstance(name, str | int | None) or isinstance(name, bool):
            raise UserError(f"{where}: {self.id} must be a string or an integer, not {json.dumps(name)[:40]}")
        others = {k: v for k, v in row.items() if k not in (self.prompt, self.answer, self.id, "answer")}
        return Example(id=f"line-{line}" if name is None else str(name), text=prompt, answer=answer,
                       fields=others if answer is None else {**others, "answer": answer})


def _rows(path: str) -> dict[int, dict[str, Any]]:
    """The objects of a file by line, from 1; blank lines are passed over."""
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file (a relative path starts at the working directory, {Path.cwd()})")
    rows = {}
    for line, raw in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except ValueError as error:
            problem = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{path}, line {line}: is not JSON: {problem}; write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {line}: is not an object but {json.dumps(row)[:40]}; write {{\"prompt\": ...}}")
        rows[line] = row
    if not rows:
        raise UserError(f"{path}: has no rows; write one JSON object a line")
    return rows
