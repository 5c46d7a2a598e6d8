from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from align.errors import UserError
from align.rewards._answers import equal, extraction
from align.tasks import Example
from align.tasks._fields import missing, name, others, question, template
from align.tasks._row_task import RowTask
from align.tasks._rows import Row, shown
from align.types import Group


@dataclass(frozen=True)
class Jsonl(RowTask):
    """Your own prompts: one JSON object per line, Parquet, or a Hugging Face dataset. Answers serve as demonstrations, or for the reward
    `match`.

    A prompt is plain text (`chat: true` asks it as the user's turn), or a list of turns {role, content} for the model's chat template.
    The reward gets a row's other fields, and `answer` if the row has one. Example: `{"prompt": "2+2=", "answer": "4", "id": "easy-1",
    "level": 3}`. Files are read when `examples`, `notes` or `suites` is called. Raises UserError naming file and line.
    """

    prompt: str = "prompt"
    """The field with the question: a string that is not blank, or turns."""
    answer: str = "answer"
    """The field with the answer, a string; optional in each row."""
    extract: str | None = None
    """Where the final answer is in the answer, which is what rewards get as `answer`; a demonstration stays whole. `hash_marks` (after the
    last `####`), `boxed` (the last `\\boxed{...}`), `last_number`, or a regular expression with one group: its last match."""

    optional: ClassVar = ("answer", "id")
    suite: ClassVar[str] = "eval"
    """The name of the held-out suite."""

    def __post_init__(self):
        super().__post_init__()
        if len({self.prompt, self.answer, self.id}) < 3:
            raise ValueError(f"prompt, answer and id must be three fields, not {self.prompt!r}, {self.answer!r} and {self.id!r}")
        if self.extract is not None:
            try:
                extraction(self.extract)
            except ValueError as error:
                raise ValueError(f"extract: {error}") from error

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        held_out = self._held_out()
        return {self.suite: held_out[:problems]} if held_out else {}

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Means over responses.

        `length`: tokens, end token included; `exact_match`, over the rows with an answer: the response equals it, ignoring surrounding
        white space; or with `extract`, what it finds in the response equals it, numbers by value.
        """
        answered = [(g.prompt.fields.get("answer"), e) for g in groups for e in g.episodes]
        metrics = {"length": fmean(e.length for _, e in answered)}
        matches = [self._matches(e.text, answer) for answer, e in answered if answer is not None]
        return metrics | ({"exact_match": fmean(matches)} if matches else {})

    def _matches(self, response: str, answer: str) -> bool:
        if self.extract is None:
            return response.strip() == answer.strip()
        found = self._final(response)
        return found is not None and equal(found, answer)

    def _final(self, text: str) -> str | None:
        """The final answer in a text, None if there is none."""
        return text if self.extract is None else extraction(self.extract)(text)

    def _example(self, row: Row) -> Example:
        if self.prompt not in row.values:
            raise missing(row, self.prompt, "question", "prompt")
        asks, messages = self._asked(*question(row, self.prompt, row.values[self.prompt]))
        answer = row.values.get(self.answer)
        if not isinstance(answer, str | None):
            raise UserError(f"{row.where}: {self.answer} must be a string, not {shown(answer)}; put it in quotes")
        final = None if answer is None else self._final(answer)
        if answer is not None and final is None:
            raise UserError(
                f"{row.where}: task.extract: {self.extract} finds nothing in {self.answer}, {answer[-40:]!r}; correct the row, or leave "
                "such rows out with task.bad_rows: drop"
            )
        travelling = others(row, (self.prompt, self.answer, self.id, "answer"))
        return Example(
            id=name(row, self.id),
            text=asks,
            messages=messages,
            template=template(row, self.template) if messages else {},
            answer=answer,
            where=row.where,
            fields=travelling if final is None else {**travelling, "answer": final},
        )
