from __future__ import annotations

from dataclasses import dataclass

from align.environments import Environment, RunningEnvironment, Turn
from align.environments._arithmetic import evaluate, shown
from align.types import Prompt

VALUE = "{}"


@dataclass(frozen=True, kw_only=True)
class Calculator(Environment):
    """A calculator: a turn that ends with an expression between two marks is answered with its value; any other turn ends the episode.

    It evaluates numbers joined by + - * / with parentheses, exactly, in at most 64 characters, and gives no reward.
    """

    pays = False

    opens: str = "<calc>"
    """Text before an expression; the last one in the turn counts. Empty: the expression begins with the turn."""
    closes: str = "</calc>"
    """Text behind an expression, with which the turn ends, apart from white space."""
    reply: str = "{}"
    """The answer, with `{}` for the value."""
    error: str = "error"
    """The value where the text between the marks is no arithmetic."""
    role: str = "tool"
    """Of the answers in a conversation; `user` for a chat template without tools."""

    def __post_init__(self):
        if not self.closes.strip():
            raise ValueError("closes must have a text: without one every turn would be a call")
        if VALUE not in self.reply:
            raise ValueError(f"reply must contain {VALUE}, which stands for the value; it is {self.reply!r}")

    def reset(self, prompt: Prompt, seed: int) -> RunningEnvironment:
        return RunningCalculator(self)

    def answer(self, text: str) -> str | None:
        """The reply to a turn; None if it does not end with a call."""
        said, closes = text.rstrip(), self.closes.rstrip()
        if not said.endswith(closes) or self.opens not in said:
            return None
        expression = said.removesuffix(closes)
        value = evaluate(expression.rpartition(self.opens)[2] if self.opens else expression)
        return self.reply.replace(VALUE, self.error if value is None else shown(value))


class RunningCalculator(RunningEnvironment):
    """It keeps nothing from turn to turn."""

    def __init__(self, part: Calculator):
        self._part = part

    def step(self, text: str) -> Turn:
        reply = self._part.answer(text)
        return Turn(done=True) if reply is None else Turn(text=reply)
