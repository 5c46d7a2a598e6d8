"""Rewards that ask an endpoint: the keys they share, and their running form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.config.parts import Setting
from align.config.ranges import AtLeastOne, Positive
from align.rewards import Answer, Reward
from align.rewards._endpoint import Endpoint, RequestFailed, check_url, key_from, stop_run
from align.types import Group, Prompt

ON_ERROR = ("stop", "fail")
Asked = tuple[Prompt, str]
"""A prompt and the response to it."""


@dataclass(frozen=True)
class Remote(Reward):
    """A reward that an HTTP endpoint computes. All answers of a step share the time limit of `reward_limits`."""

    url: str
    """Address of the endpoint, http:// or https://."""
    key_variable: str | None = None
    """Environment variable with the API key, sent as `Authorization: Bearer`. The key itself is in no recipe. Workers on other nodes need
    the variable too."""
    timeout: Positive = 60.0
    """Seconds that one attempt may take."""
    attempts: AtLeastOne = 4
    """Attempts of a request that fails to connect, takes too long, or is answered by a status that asks to come again (429, 5xx)."""
    wait: Positive = 1.0
    """Seconds before the second attempt, doubled before each further one, or as long as the server asks for; at most 30."""
    at_once: AtLeastOne = 8
    """Requests under way at the same time."""
    on_error: str = "stop"
    """`stop`: a request that failed every attempt stops the run, which can be resumed. `fail`: its answers count as failed, and
    `reward_limits.on_failure` says what becomes of them."""

    def __post_init__(self):
        check_url(self.url)
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error must be {' or '.join(ON_ERROR)}, not {self.on_error!r}")

    def refuse(self, setting: Setting) -> str | None:
        limit = setting.recipe.reward_limits.seconds
        if self.timeout > limit:
            return (
                f"timeout {self.timeout:g} is above reward_limits.seconds {limit:g}, which would end a request before its own limit: "
                f"set reward_limits.seconds={self.timeout:g}"
            )
        return None

    @abstractmethod
    def requests(self, asked: Sequence[Asked]) -> tuple[list[Mapping[str, Any]], Callable[[list[Any]], list[Answer | Exception]]]:
        """The bodies to post, and what reads the replies: one result for each answer."""

    def start(self) -> Reward:
        """Raises UserError where the variable of the key is not set."""
        key = key_from(self.key_variable, f"reward {self.recipe_name}")
        return RunningRemote(self, Endpoint(self.url, key, self.timeout, self.attempts, self.wait, self.at_once))

    def score(self, prompt: Prompt, response: str) -> Answer:
        return self.start().score(prompt, response)

    def score_groups(self, groups: Sequence[Group]) -> Sequence[Answer | Exception]:
        return self.start().score_groups(groups)


class RunningRemote(Reward):
    """A remote reward with its key."""

    def __init__(self, remote: Remote, endpoint: Endpoint):
        self._remote, self._endpoint = remote, endpoint

    def score(self, prompt: Prompt, response: str) -> Answer:
        (found,) = self._scores([(prompt, response)])
        if isinstance(found, Exception):
            raise found
        return found

    def score_groups(self, groups: Sequence[Group]) -> list[Answer | Exception]:
        return self._scores([(g.prompt, e.text) for g in groups for e in g.episodes])

    def _scores(self, asked: Sequence[Asked]) -> list[Answer | Exception]:
        """Raises RunStopped with `on_error: stop`."""
        bodies, read = self._remote.requests([(p, r.encode("utf-8", "replace").decode()) for p, r in asked])
        try:
            return read(self._endpoint.post_all(bodies))
        except RequestFailed as error:
            if self._remote.on_error == "stop":
                raise stop_run(error) from error
            return [error for _ in asked]
