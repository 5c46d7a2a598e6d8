from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from align.config.ranges import AtLeastOne, Count
from align.rewards import Answer, Reward
from align.types import Group, Prompt

OF_TEXT: Mapping[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(text.split())}
"""The units that the text alone shows."""


@dataclass(frozen=True)
class Length(Reward):
    """A punishment from 0 to -1 for the length n of an answer, to be added to another reward.

    With `maximum` it is DAPO's soft overlong punishment (Yu et al. 2503.14476, equation 13, L_max = maximum, L_cache = buffer): 0 up to
    maximum - buffer, then linearly down to -1 at maximum, and -1 beyond. With `target` it is -min(|n - target| / buffer, 1). The shaping
    `overlong` is the same punishment outside the reward.
    """

    maximum: AtLeastOne | None = None
    """Exactly one of `maximum` and `target`."""
    target: AtLeastOne | None = None
    buffer: Count = 0
    """The distance over which the punishment grows. With maximum, 0 punishes all longer answers alike; with target, it must be above 0."""
    unit: str = "tokens"
    """What is counted: `tokens` (the end token too), `characters` or `words`."""

    def __post_init__(self):
        if (self.maximum is None) == (self.target is None):
            raise ValueError("needs exactly one of maximum and target: maximum: 1024, buffer: 256")
        if self.unit not in ("tokens", *OF_TEXT):
            raise ValueError(f"unit must be tokens, {' or '.join(OF_TEXT)}, not {self.unit!r}")
        if self.maximum is not None and self.buffer > self.maximum:
            raise ValueError(f"buffer {self.buffer} must not exceed maximum {self.maximum}")
        if self.target is not None and not self.buffer:
            raise ValueError("buffer must be above 0 with target: at that distance from the target the reward is -1")

    def score(self, prompt: Prompt, response: str) -> float:
        """Raises ValueError with `unit: tokens`, which the text alone does not show."""
        if self.unit not in OF_TEXT:
            raise ValueError("a text alone does not show how many tokens were drawn: use score_groups, or unit: characters or words")
        return self._punishment(OF_TEXT[self.unit](response))

    def score_groups(self, groups: Sequence[Group]) -> list[Answer | Exception]:
        count = OF_TEXT.get(self.unit)
        return [self._punishment(e.length if count is None else count(e.text)) for g in groups for e in g.episodes]

    def _punishment(self, length: int) -> float:
        if self.target is not None:
            return -min(abs(length - self.target) / self.buffer, 1.0)
        assert self.maximum is not None  # __post_init__ refuses neither
        excess = length - (self.maximum - self.buffer)
        if self.buffer:
            return -min(max(excess / self.buffer, 0.0), 1.0)
        return -1.0 if excess > 0 else 0.0
