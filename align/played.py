"""What an environment made of an episode: its rewards, and how the episode ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Played:
    """Beside the segments of an episode that had an environment, as Played(rewards=(None, 1.0))."""

    rewards: tuple[float | None, ...]
    """One for each assistant turn, 0 for one that the length limit cut; None where the environment pays nothing (`pays`)."""
    failure: str | None = None
    """Why the environment failed, which ended the episode; its reward has then failed too."""
    limited: bool = False
    """The environment had more to say, and `episode.max_turns` or `episode.max_tokens` ended the episode."""
