"""An episode that goes on: what has been said, and what its environment gave."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from align.environments import RunningEnvironment
from align.experience.turn_tokens import Marked
from align.played import Played
from align.types import Episode, Prompt, Segment


@dataclass
class PlayingEpisode:
    """An episode of this prompt."""

    prompt: Prompt
    seed: int
    """Of the prompt."""
    sample: int
    segments: list[Segment] = field(default_factory=list)
    written: str = ""
    """The text behind the prompt, without end tokens."""
    last_text: str = ""
    """The last assistant turn."""
    finished: bool = True
    """Whether it ended by an end token."""
    running: RunningEnvironment | None = None
    rewards: list[float | None] = field(default_factory=list)
    failure: str | None = None
    limited: bool = False
    goes_on: bool = True

    @property
    def tokens(self) -> int:
        """Behind the prompt."""
        return sum(len(s.token_ids) for s in self.segments)

    @property
    def turns(self) -> int:
        """Assistant turns so far."""
        return sum(s.trained for s in self.segments)

    def asked(self, turn: int) -> Prompt:
        """Prompt and episode so far, as a prompt for the next turn."""
        ids = (*self.prompt.token_ids, *(int(i) for s in self.segments for i in s.token_ids))
        p = self.prompt
        return Prompt(
            id=f"{p.id}/{self.sample}/{turn}",
            text=p.text + self.written,
            token_ids=ids,
            fields=p.fields,
            messages=p.messages,
            template=p.template,
        )

    def add_assistant_turn(self, turn: Episode) -> None:
        """Add an assistant turn, as the engine drew it."""
        self.segments += turn.segments
        self.last_text, self.finished, self.written = turn.text, turn.finished, self.written + turn.text

    def add_environment_turn(self, role: str, marked: Marked) -> None:
        """Add a turn of the environment."""
        self.segments.append(Segment(role=role, token_ids=np.array(marked.ids, dtype=np.int32), trained=False))
        self.written += marked.text

    def done(self) -> Episode:
        played = Played(rewards=tuple(self.rewards), failure=self.failure, limited=self.limited)
        return Episode(segments=tuple(self.segments), text=self.last_text, finished=self.finished, played=played)
