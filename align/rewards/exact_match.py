from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from align.rewards import Reward
from align.rewards._answers import equal, extraction, number
from align.types import Prompt


@dataclass(frozen=True)
class ExactMatch(Reward):
    r"""1 if the final answer in the response is that of the row, else 0; the part `answered` is 1 where there is a final answer at all.

    Two numbers are compared by value: `$1,234.50`, `1234.5` and `1{,}234.5\%` are equal, and so are `50%` and `50`. Other answers are
    compared as texts, any white space being one space. Raises ValueError where the row's own answer cannot be read.
    """

    extract: str = "last_number"
    """How the final answer is found: `last_number`, `boxed` (the last `\\boxed{...}`), `hash_marks` (after the last `####`), `whole`, or a
    regular expression with one group, of which the last match counts: `'Answer: (.*)'`; `(?s)` before it lets `.` match line
    breaks, as in `'(?s)<answer>(.*?)</answer>'`."""
    expected: str = "whole"
    """How the row's field is read, in the same words: `hash_marks` for rows of GSM8K, whose answers are whole solutions."""
    field: str = "answer"
    """The row's field with the answer, a string or a number."""
    numbers: bool = True
    """Whether numbers are compared by value; else as texts."""
    ignore_case: bool = False

    def __post_init__(self):
        for key in ("extract", "expected"):
            try:
                extraction(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error

    @property
    def required_fields(self) -> Collection[str]:
        return (self.field,)

    def score(self, prompt: Prompt, response: str) -> dict[str, float]:
        wanted = extraction(self.expected)(str(prompt.fields.get(self.field, "")))
        if not wanted:
            raise ValueError(f"prompt {prompt.id}: no answer is found in its field {self.field} by expected: {self.expected}")
        found = extraction(self.extract)(response)
        return {"total": float(bool(found) and self._same(found, wanted)), "answered": float(bool(found))}

    def final_answer(self, response: str) -> str | None:
        found = extraction(self.extract)(response)
        value = number(found) if found and self.numbers else None
        return found or None if value is None else str(value.normalize())

    def _same(self, found: str, wanted: str) -> bool:
        pair = (found.casefold(), wanted.casefold()) if self.ignore_case else (found, wanted)
        return equal(*pair, as_numbers=self.numbers)
