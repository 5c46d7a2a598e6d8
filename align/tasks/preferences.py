from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any, ClassVar

from align.config.nodes import part
from align.errors import UserError
from align.tasks import Example, _dialogues
from align.tasks._fields import Turns, asked, missing, name, others, question, template, text, turns
from align.tasks._row_task import RowTask
from align.tasks._rows import Row, shown
from align.types import Group

Answer = tuple[str, Any]
"""An answer's name in the file, and its value."""


@dataclass(frozen=True)
class Preferences(RowTask):
    """Answers in order of preference, from JSONL, Parquet or a Hugging Face dataset: `{"prompt": .., "chosen": .., "rejected": ..}`.

    With `answers`, a row has a list of any length, best first. Prompts and answers are texts, or conversations: lists of turns
    {role, content} for the model's chat template. An answer is then either the assistant's next turn, or a whole conversation that ends
    with it; the prompt is then the common turns of the conversations (a `prompt` text is not read). Two texts without a prompt that begin
    alike, `\\n\\nHuman: ... \\n\\nAssistant: ...` (HH), are the prompt up to the last `Assistant:` and two answers. The best answer also
    serves as demonstration, and rewards get a row's other fields. Held-out rows measure the preference accuracy. Files are read when
    examples are requested. Raises UserError naming file, line and field.
    """

    prompt: str = "prompt"
    """The field with the question; optional in rows whose answers are whole conversations."""
    chosen: str = "chosen"
    """The field with the better answer."""
    rejected: str = "rejected"
    """The field with the worse answer."""
    answers: str | None = None
    """The field with a list of answers, best first, instead of chosen and rejected."""
    held_out: Any = part("task", optional=True)
    """A task that gives the held-out problems for the trained model, and the tokenizer of a randomly initialised model."""

    optional: ClassVar = ("prompt", "id")

    def __post_init__(self):
        super().__post_init__()
        for f in fields(self):
            if self.answers is not None and f.name in ("chosen", "rejected") and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name} changes nothing beside answers: give either the list or the two")
        used = [self.prompt, *self._sources(), *([] if self.id is None else [self.id])]
        if len(set(used)) < len(used):
            raise ValueError(f"prompt, answers and id must be different fields, not {', '.join(map(repr, used))}")

    def rankings(self) -> Sequence[Example]:
        return self._held_out()

    def suites(self, problems: int) -> Mapping[str, Sequence[Example]]:
        return {} if self.held_out is None else self.held_out.suites(problems)

    def judge(self, suite: str, groups: Sequence[Group]) -> dict[str, float]:
        """Delegates to `held_out`, which has the suites."""
        return self.held_out.judge(suite, groups)

    def tokenizer(self) -> Any:
        return None if self.held_out is None else self.held_out.tokenizer()

    def _sources(self) -> list[str]:
        return [self.chosen, self.rejected] if self.answers is None else [self.answers]

    def _example(self, row: Row) -> Example:
        answers = self._answers(row)
        if {type(value) for _, value in answers} == {list}:
            asks, messages, ranked = self._conversation(row, [(label, turns(row, label, value)) for label, value in answers])
        else:
            ranked = tuple(text(row, label, value, "or each of them a list of turns") for label, value in answers)
            if self.prompt not in row.values and all(map(_dialogues.is_dialogue, ranked)):
                asks, messages, ranked = self._dialogue(row, [label for label, _ in answers], ranked)
            else:
                asks, messages = question(row, self.prompt, self._prompt(row))
        asks, messages = self._asked(asks, messages)
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

    def _dialogue(self, row: Row, labels: Sequence[str], texts: Sequence[str]) -> tuple[str, Turns, tuple[str, ...]]:
        """The prompt that dialogues in one text share, and each answer; as turns with `chat`."""
        found = _dialogues.divided(texts)
        if found is None:
            raise UserError(
                f"{row.where}: {labels[0]} and {labels[-1]} do not begin alike up to their last {_dialogues.ASSISTANT.strip()!r}, so they "
                "are no answers to one prompt; leave such rows out with task.bad_rows: drop"
            )
        asks, answers = found
        ranked = tuple(text(row, label, answer) for label, answer in zip(labels, answers, strict=True))
        if not self.chat:
            return asks, (), ranked
        return *asked(row, "the dialogue", _dialogues.turns(asks)), tuple(answer.strip() for answer in ranked)

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
