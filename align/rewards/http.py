from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.config.ranges import AtLeastOne
from align.rewards import Answer
from align.rewards._endpoint import RequestFailed
from align.rewards._remote import Asked, Remote
from align.types import Prompt


@dataclass(frozen=True)
class Http(Remote):
    """A reward from your own server. A request is `{"samples": [{"id", "prompt", "response", "fields"}, ...]}`, where `fields` are those of
    the row, and the reply `{"rewards": [...]}` in the same order: numbers, or objects of named numbers with their `total`.

    null as a reward, or another type, makes that answer fail. A reply of another form is an error of the endpoint.
    """

    batch: AtLeastOne = 64
    """Answers in one request."""

    def requests(self, asked: Sequence[Asked]) -> tuple[list[Mapping[str, Any]], Callable[[list[Any]], list[Answer | Exception]]]:
        parts = [asked[i : i + self.batch] for i in range(0, len(asked), self.batch)]
        bodies: list[Mapping[str, Any]] = [{"samples": [_sample(prompt, response) for prompt, response in part]} for part in parts]

        def read(replies: list[Any]) -> list[Answer | Exception]:
            return [reward for part, reply in zip(parts, replies, strict=True) for reward in _rewards(self.url, reply, len(part))]

        return bodies, read


def _sample(prompt: Prompt, response: str) -> dict[str, Any]:
    return {"id": prompt.id, "prompt": prompt.text, "response": response, "fields": dict(prompt.fields)}


def _rewards(url: str, reply: Any, count: int) -> list[Any]:
    rewards = reply.get("rewards") if isinstance(reply, dict) else None
    if not isinstance(rewards, list) or len(rewards) != count:
        raise RequestFailed(f'{url} answered {reply!r:.80}, must be {{"rewards": [...]}} with {count} entries')
    return rewards
