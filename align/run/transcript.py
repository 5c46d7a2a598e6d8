"""The text of an episode for people, with the turns of its environment marked."""

from __future__ import annotations

from align.types import Episode
from align.vocabulary.answer_text import AnswerText


def transcript(episode: Episode, text: AnswerText) -> str:
    """The answer; of several turns all of them, each behind a line with its role: `[tool]`, then `[assistant]`."""
    if len(episode.segments) < 2:
        return episode.text
    turns = zip(episode.segments, text.many([s.token_ids.tolist() for s in episode.segments]), strict=True)
    return "\n".join(f"[{segment.role}]\n{said}" if i else said for i, (segment, said) in enumerate(turns))
