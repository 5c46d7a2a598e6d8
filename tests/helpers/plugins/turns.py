"""An environment that answers every turn, pays for it, and fails in every way on request."""

import random
import time

from align.environments import Environment, RunningEnvironment, Turn
from align.types import Prompt


class Every(Environment):
    """Answers the n-th turn with a digit of its seed and `=`, pays n/4 for it, and ends the episode with the turn `most`."""

    most: int = 9
    pays: bool = False
    fails: str = ""
    """What goes wrong in the second turn: raise, hang, slow, nan, blank, paid, type, close; in `reset`: start, object."""
    which: str = ""
    """Only of this prompt; empty: of every one."""

    def reset(self, prompt: Prompt, seed: int) -> RunningEnvironment:
        fails = self.fails if self.which in ("", prompt.id) else ""
        if fails == "start":
            raise OSError("no server")
        if fails == "object":
            return prompt  # type: ignore[return-value]
        return RunningEvery(self, fails, random.Random(seed))


class RunningEvery(RunningEnvironment):
    def __init__(self, part: Every, fails: str, random: random.Random):
        self.part, self.fails, self.random, self.turns, self.closed = part, fails, random, 0, 0

    def step(self, text: str) -> Turn:
        self.turns += 1
        fails = self.fails if self.turns == 2 else ""
        if fails == "raise":
            raise ValueError("no such move")
        while fails == "hang":
            time.sleep(0.001)
        if fails == "slow":
            time.sleep(0.03)
        if fails == "type":
            return {"text": "1"}  # type: ignore[return-value]
        reward = float("nan") if fails == "nan" else self.turns / 4 if self.part.pays or fails == "paid" else 0.0
        said = "" if fails == "blank" else f"{self.random.randrange(10)}="
        return Turn(text=said, done=self.turns == self.part.most, reward=reward)

    def close(self) -> None:
        self.closed += 1
        if self.fails == "close":
            raise OSError("gone")
