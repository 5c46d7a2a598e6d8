"""Environments: what answers a policy between its turns, such as a tool, a game or a user.

An episode is the prompt, an assistant turn, the environment's text, an assistant turn, and so on. The policy is trained on its own turns
alone: the environment's text is context. docs/environments.md describes how an episode becomes tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite

from align.config.parts import Part, Setting, location
from align.errors import UserError
from align.types import Prompt

ROLES = ("tool", "user", "system")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What an environment says to an assistant turn, as Turn(text="16") or Turn(done=True, reward=1.0).

    Raises ValueError for a reward that is not finite, and for a turn that neither ends the episode nor has a text.
    """

    text: str = ""
    """What the policy reads before its next turn, without the markers of a chat template. Unused where the episode ends."""
    done: bool = False
    """The episode ends with the assistant turn."""
    reward: float = 0.0
    """Of the assistant turn, paid at its last token."""

    def __post_init__(self):
        if not isinstance(self.text, str):
            raise ValueError(f"the text of a Turn is a str, not {self.text!r:.60}")
        if not self.done and not self.text:
            raise ValueError("a Turn has a text, or ends the episode (done=True)")
        if not isfinite(self.reward):
            raise ValueError(f"the reward of a Turn is finite, not {self.reward}")


class RunningEnvironment(ABC):
    """The environment of one episode, which `Environment.reset` returns. It may keep any state.

    Each call is limited to `episode.seconds`. A call that raises or takes longer ends the episode, and its reward counts as failed.
    """

    @abstractmethod
    def step(self, text: str) -> Turn:
        """The answer to an assistant turn. `text`: the turn, decoded without end token. It comes from a model: parse it, and
        execute it in a sandbox or never."""

    def close(self) -> None:
        """Free what the episode took. Called once, after its last turn."""


class Environment(Part, ABC):
    """The contract of the part: its keys, and `reset`, which begins an episode."""

    pays: bool = True
    """Its turns have rewards, which are added to the recipe's reward. False: their reward is always 0, and is no part of it."""
    role: str = "tool"
    """Of the environment's turns in a conversation: tool, user or system. An environment with a choice declares this as a key."""

    def start(self) -> Environment:
        """What runs in a process that generates: the environment itself, or an object that holds what it needs, loaded once.

        Raises UserError where that cannot work: nothing has run yet.
        """
        return self

    @abstractmethod
    def reset(self, prompt: Prompt, seed: int) -> RunningEnvironment:
        """Begin an episode of this prompt. All randomness of the episode comes from `seed` (0 <= seed < 2**62), so that any number of
        processes plays the same episodes."""

    def close(self) -> None:
        """Free what `start` took."""

    def misfit(self, setting: Setting) -> str | None:
        if not setting.samples:
            algorithm = setting.recipe.algorithm
            return f"changes nothing: {algorithm.recipe_name} learns from {algorithm.learns_from}, not from episodes; delete the key"
        return None if self.role in ROLES else f"its role must be one of {', '.join(ROLES)}, not {self.role!r}"


def start_environment(part: Environment) -> Environment:
    """What the environment's `start` returns. Raises UserError where that is no environment."""
    made = part.start()
    if not isinstance(made, Environment):
        raise UserError(
            f"environment: {location(type(part).start)}: {type(part).__name__}.start must return an object that derives from "
            f"align.environments.Environment, and returned {made!r:.60}"
        )
    return made
