"""A task made of rows: where they come from, which of them are used, which are held out, and how their prompts are asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from align.config.paths import absolute
from align.config.ranges import AtLeastOne, BelowOne, Seed
from align.errors import UserError
from align.tasks import TOO_LONG, Example, Task
from align.tasks._fields import Turns, distinct, known, refuse_idle, with_turns
from align.tasks._filters import applied, parsed
from align.tasks._held_out import is_held_out
from align.tasks._rows import Row, read, refuse_overlap


class Selected(NamedTuple):
    examples: list[Example]
    notes: list[str]
    """What was left out, for the user."""


@dataclass(frozen=True)
class RowTask(Task):
    """The keys that every task of rows has."""

    path: str
    """Training data: a file (JSONL, Parquet), a folder that `datasets` loads, or the name of a dataset on the Hub, `owner/name`. A relative
    path starts at the folder of the recipe file; on the command line and in Python, at the working directory."""
    split: str | None = None
    """Split of a dataset, `train` by default; also `train[:1000]`."""
    subset: str | None = None
    """Configuration of a dataset that has several; used for the held-out dataset too."""
    eval_path: str | None = None
    """Held-out rows; a relative path starts where that of `path` does. With only eval_split, `path` itself."""
    eval_split: str | None = None
    eval_share: BelowOne = 0.0
    """Share of the rows of `path` that are held out, chosen by a hash of the prompt: rows with one prompt are on one side, and rows that
    are appended later move no other."""
    id: str | None = "id"
    """The field with the row's id, a string or integer; a row without one is named by its line. null: name all rows by line."""
    filter: dict[str, Any] | None = None
    """The rows that are used, training and held out, by field: a value, a list of values, or conditions `matches`, `not_matches` (regular
    expressions), `min`, `max`, `min_length`, `max_length` (characters): `{level: [4, 5], question: {max_length: 2000}}`."""
    shuffle_seed: Seed | None = None
    """Shuffles the rows before the first `evaluation.problems` are taken; null: the order of the source. Training is shuffled anyway."""
    bad_rows: str = "stop"
    """What to do with a row whose fields cannot be used: `stop` the run, or `drop` it and count it."""
    max_prompt_tokens: AtLeastOne | None = None
    """Tokens of the longest prompt, chat template included; null: any that the model has positions for."""
    too_long: str = "stop"
    """What to do with a prompt beyond `max_prompt_tokens`, or an answer in the data beyond `sampling.max_tokens`: `stop` the run, `drop`
    the row and count it, or `truncate_left`, which leaves the last tokens of a prompt of plain text. Answers are never cut."""
    chat: bool = False
    """Ask a prompt that is plain text as the user's turn, formatted by the model's chat template."""
    system: str | None = None
    """The system's turn of every conversation that has none."""
    template: dict[str, Any] | None = None
    """Options of the chat template for every conversation, such as `{enable_thinking: false}`. A row's own come before them: its columns
    `tools`, `chat_template_kwargs` (an object), and any other whose name the template reads."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Keys that name a field which only some rows have; one that no row has is refused."""

    def __post_init__(self):
        for key in ("path", "eval_path"):  # a run's recipe.yaml is read from other working directories
            if (path := getattr(self, key)) is not None:
                object.__setattr__(self, key, absolute(path, Path.cwd()))
        refuse_overlap(self.path, self.split, self.eval_path, self.eval_split)
        if self.eval_share and (self.eval_path is not None or self.eval_split is not None):
            raise ValueError("eval_share changes nothing beside eval_path or eval_split, which name the held-out rows: delete one of them")
        if self.bad_rows not in ("stop", "drop"):
            raise ValueError(f"bad_rows must be stop or drop, not {self.bad_rows!r}")
        if self.too_long not in TOO_LONG:
            raise ValueError(f"too_long must be stop, drop or truncate_left, not {self.too_long!r}")
        if self.too_long == "truncate_left" and self.max_prompt_tokens is None:
            raise ValueError("too_long: truncate_left changes nothing without max_prompt_tokens, the length to cut prompts to")
        parsed(self.filter)

    def examples(self) -> Sequence[Example]:
        return self._trained().examples

    def notes(self) -> Sequence[str]:
        return self._trained().notes

    @abstractmethod
    def _example(self, row: Row) -> Example:
        """Raises UserError for a row that cannot be used."""

    def _read(self, held_out: bool) -> list[Row]:
        """The rows of the source: of training, or the held-out ones."""
        return read(self.eval_path or self.path, self.eval_split, self.subset) if held_out else read(self.path, self.split, self.subset)

    def _holds_out(self) -> bool:
        """Whether there are held-out rows apart from those of training."""
        return self.eval_path is not None or self.eval_split is not None

    def _trained(self) -> Selected:
        rows = self._read(held_out=False)
        for f in fields(self):
            if f.name in self.optional and getattr(self, f.name) not in (f.default, None):
                known(self.path, rows, f.name, getattr(self, f.name))
        found = self._selected(rows, self.path)
        refuse_idle(found.examples, chat=self.chat, system=self.system, template=self.template)
        if self.eval_share:
            found = found._replace(examples=[e for e in found.examples if not is_held_out(e, self.eval_share)])
        if not found.examples:
            raise UserError(f"{self.path}: no row is left to train on; lower task.eval_share")
        return found

    def _held_out(self) -> list[Example]:
        """The held-out examples; empty if no key names any."""
        if self.eval_share:
            found = [e for e in self._selected(self._read(held_out=False), self.path).examples if is_held_out(e, self.eval_share)]
            if not found:
                raise UserError(f"{self.path}: task.eval_share: {self.eval_share:g} holds out no row; raise it")
            return found
        if not self._holds_out():
            return []
        return self._selected(self._read(held_out=True), self.eval_path or self.path).examples

    def _selected(self, rows: list[Row], path: str) -> Selected:
        rows, notes = applied(parsed(self.filter), rows, path)
        examples, bad = [], []
        for row in rows:
            try:
                examples.append(self._example(row))
            except UserError as error:
                if self.bad_rows == "stop":
                    raise
                bad.append(str(error))
        if bad:
            notes.append(f"{path}: {len(bad):,} of {len(rows):,} rows cannot be used and are left out; the first: {bad[0]}")
        if not examples:
            raise UserError(notes[-1])
        examples = distinct(examples, self.id)
        if self.shuffle_seed is not None:
            examples = [examples[i] for i in np.random.default_rng(self.shuffle_seed).permutation(len(examples))]
        return Selected(examples, notes)

    def _asked(self, text: str, messages: Turns) -> tuple[str, Turns]:
        """A prompt as it is asked, with `chat` and `system`."""
        return with_turns(text, messages, chat=self.chat, system=self.system)
