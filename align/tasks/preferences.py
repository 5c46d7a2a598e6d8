from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from align.config.nodes import part
from align.errors import UserError
from align.tasks import Example, Task
from align.tasks._fields import Turns, asked, distinct, known, missing, name, others, question, template, text, turns, used
from align.tasks._rows import Row, read, refuse_overlap, shown
from align.types import Group

Answer = tuple[str, Any]
"""An answer's name in the file, and its value."""


@dataclass(frozen=True)
class Preferences(Task):
    """Answers in order of preference, from JSONL, Parquet or a Hugging Face dataset: `{"prompt": .., "chosen": .., "rejected": ..}`.

    With `answers`, a row has a list of any length, best first. Prompts and answers are texts, or conversations: lists of turns
    {role, content} for the model's chat template. An answer is then either the assistant's next turn, or a whole conversation that ends
    with it; the prompt is then the common turns of the conversations (a `prompt` text is not read). The best answer also serves as
    demonstration, and rewards get a row's other fields. Relative paths start at the working directory. Files are read when examples are
    requested. Raises UserError naming file, line and field.
    """

    path: str
    """Training data: a file, a folder that `datasets` loads, or the name of a dataset on the Hub."""
    split: str | None = None
    """Split of a dataset, `train` by default; also `train[:1000]`."""
    subset: str | None = None
    """Configuration of a dataset that has several; used for the held-out dataset too."""
    eval_path: str | None = None
    """Held-out rows, to measure accuracy. With only eval_split, `path` itself."""
    eval_split: str | None = None
    prompt: str = "prompt"
    """The field with the question; optional in rows whose answers are whole conversations."""
    chosen: str = "chosen"
    """The field with the better answer."""
    rejected: str = "rejected"
    """The field with the worse answer."""
    answers: str | None = None
    """The field with a list of answers, best first, instead of chosen and rejected."""
    id: str | None = "id"
    """The field with the row's id, a string or integer; a row without one is named by its line. null: name all rows by line."""
    too_long: str = "stop"
    """What to do if an answer is longer than `sampling.max_tokens`: `stop` the run, or `drop` the row and count it. Nothing is cut."""
    template: dict[str, Any] | None = None
    """Options of the chat template for every conversation, such as `{enable_thinking: false}`. A row's own come before them: its columns
    `tools`, `chat_template_kwargs` (an object), and any other whose name the template reads."""
    held_out: Any = part("task", optional=True)
    """A task that gives the held-out problems for the trained model, and the tokenizer of a randomly initialised model."""

    def __post_init__(self):
        for f in fields(self):
            if self.answers is not None and f.name in ("chosen", "rejected") and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name} changes nothing beside answers: give either the list or the two")
        used = [self.prompt, *self._sources(), *([] if self.id is None else [self.id])]
        if len(set(used)) < len(used):
            raise ValueError(f"prompt, answers and id must be different fields, not {', '.join(map(repr, used))}")
        if self.too_long not in ("stop", "drop"):
            raise ValueError(f"too_long must be stop or drop, not {self.too_long!r}")
        refuse_overlap(self.path, self.split, self.eval_path, self.eval_split)

    def examples(self) -> Sequence[Example]:
        rows = read(self.path, self.split, self.subset)
        for f in fields(self):
            if f.name in ("prompt", "id") and getattr(self, f.name) not in (f.default, None):
                known(self.path, rows, f.name, getattr(self, f.name))
        return used(self.template, self._examples(rows))

    def rankings(self) -> Sequence[Example]:
        if self.eval_path is None and self.eval_split is None:
            return ()
        return self._examples(read(self.eval_path or self.path, self.eval_split, self.subset))

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {} if self.held_out is None else self.held_out.suites(problems)

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Delegates to `held_out`, which has the suites."""
        return self.held_out.judge(suite, groups)

    def tokenizer(self) -> Any:
        return None if self.held_out is None else self.held_out.tokenizer()

    def _sources(self) -> list[str]:
        return [self.chosen, self.rejected] if self.answers is None else [self.answers]

    def _examples(self, rows: Sequence[Row]) -> list[Example]:
        return distinct([self._example(row) for row in rows], self.id)

    def _example(self, row: Row) -> Example:
        answers = self._answers(row)
        if {type(value) for _, value in answers} == {list}:
            asks, messages, ranked = self._conversation(row, [(label, turns(row, label, value)) for label, value in answers])
        else:
            ranked = tuple(text(row, label, value, "or each of them a list of turns") for label, value in answers)
            asks, messages = question(row, self.prompt, self._prompt(row))
        for i, j in combinations(range(len(ranked)), 2):
            if ranked[i] == ranked[j]:
                raise UserError(f"{row.where}: {answers[i][0]} and {answers[j][0]} are the same text, so neither is better; delete the row")
        return Example(
            id=name(row, self.id),
            text=asks,
            messages=messages,
            template=template(row, self.template) if messages else {},
            answer=ranked[0],
            ranked=ranked,
            where=row.where,
            ranked_names=tuple(label for label, _ in answers),
            fields=others(row, (self.prompt, *self._sources(), self.id)),
        )

    def _answers(self, row: Row) -> list[Answer]:
        absent = next((key for key in self._sources() if key not in row.values), None)
        if absent is not None:
            what = {"answers": "answers, best first,", "chosen": "better answer", "rejected": "worse answer"}
            key = next(key for key in what if getattr(self, key) == absent)
            raise missing(row, absent, what[key], key)
        if self.answers is None:
            return [(key, row.values[key]) for key in self._sources()]
        values = row.values[self.answers]
        if not isinstance(values, list) or len(values) < 2:
            raise UserError(f"{row.where}: {self.answers} must be a list of two answers or more, best first, not {shown(values)}")
        return [(f"{self.answers}[{i}]", value) for i, value in enumerate(values)]

    def _prompt(self, row: Row) -> Any:
        if self.prompt not in row.values:
            raise missing(row, self.prompt, "question", "prompt")
        return row.values[self.prompt]

    def _conversation(self, row: Row, answers: Sequence[tuple[str, Turns]]) -> tuple[str, Turns, tuple[str, ...]]:
        """The prompt as readable text and as turns, and each answer's own turn."""
        given = row.values.get(self.prompt)
        if isinstance(given, list):
            begun = turns(row, self.prompt, given)
            rests = [conversation[len(begun) :] if conversation[: len(begun)] == begun else conversation for _, conversation in answers]
            field = self.prompt
        else:
            shared = _shared([conversation for _, conversation in answers])
            begun, rests = answers[0][1][:shared], [conversation[shared:] for _, conversation in answers]
            field = f"what {answers[0][0]} and {answers[-1][0]} have in common"
            if not begun:
                begun = ({"role": "user", "content": text(row, self.prompt, self._prompt(row))},)
        for (label, _), rest in zip(answers, rests, strict=True):
            if len(rest) != 1 or rest[0]["role"] != "assistant":
                raise UserError(
                    f"{row.where}: {label} must add one turn by the assistant to the prompt, not {len(rest)} turns "
                    f"({', '.join(turn['role'] for turn in rest) or 'none'}); cut it there or delete the row"
                )
        ranked = tuple(text(row, label, rest[0]["content"]) for (label, _), rest in zip(answers, rests, strict=True))
        return *asked(row, field, begun), ranked


def _shared(conversations: Sequence[Turns]) -> int:
    """Number of leading turns that all conversations share, without the last turn of any."""
    longest = min(map(len, conversations)) - 1
    return next((i for i in range(longest) if any(c[i] != conversations[0][i] for c in conversations)), longest)
