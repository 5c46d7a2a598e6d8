"""Waits for an actor's result. Its exception is raised here unchanged; its death raises RunStopped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from align.errors import RunStopped, UserError
from align.learner.token_penalties import TokenPenalties
from align.types import Stat, TokenBatch
from align.weight_sync.flattening import Weights
from align.workers import head
from align.workers.exchange import Exchange

DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""Ray's errors for a process that ended during a call."""


def get_result(ref: ray.ObjectRef, seconds: float | None = None) -> Any:
    """The result of a call. Raises the actor's own UserError, an error of `DIED` if the actor died, RunStopped without a cluster, and
    GetTimeoutError after so many seconds."""
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    try:
        head.check()
        while not ray.wait([ref], timeout=max(min(head.INTERVAL, deadline - time.monotonic()), 0.0))[0]:
            head.check()
            if time.monotonic() >= deadline:
                raise GetTimeoutError
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except (*DIED, GetTimeoutError):
        raise
    except RayError as error:
        raise RunStopped(head.LOST) from error


def finished(refs: Sequence[ray.ObjectRef], count: int, seconds: float) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef]]:
    """The calls that have ended, and the others, once `count` have or the seconds have passed. Raises RunStopped without a cluster."""
    deadline = time.monotonic() + seconds
    while True:
        head.check()
        left = deadline - time.monotonic()
        done, others = ray.wait(list(refs), num_returns=count, timeout=max(min(head.INTERVAL, left), 0.0))
        if len(done) >= count or left <= 0:
            return done, others


REASONS = (
    (r"out of memory|OutOfMemory|memory pressure|low on memory", "the node ran out of memory and its process was killed"),
    (r"exit code (\d+)", r"its process ended with exit code \1"),
    (r"exit signal \w+ \((\d+)\)|signal (\d+)", "a signal killed its process"),
    (r"[Nn]ode .*(died|dead|removed|failed)|node failure", "its node died or left the cluster"),
    (r"ray\.kill", "it was killed"),
    (
        r"connection error|SIGKILL|EOF|End of file|Socket closed|was restarted",
        "its process was killed from outside, often for lack of memory, or crashed",
    ),
)
"""The first pattern that a death's text has gives its reason in plain words."""


def death_reason(error: Exception) -> str:
    """Why a process died, in one phrase without names of Ray's internals."""
    if isinstance(error, OutOfMemoryError):
        return REASONS[0][1]
    text = " ".join(str(error).split())
    found = ((re.search(pattern, text), words) for pattern, words in REASONS)
    return next((match.expand(words) for match, words in found if match), "its process ended without a reason")


class RemoteLearner:
    """Calls the learner's methods in its actor and waits for each. Raises RunStopped if the actor died."""

    def __init__(self, actor: Any):
        self._actor = actor
        self.exchange = Exchange()
        self.ended: str | None = None
        """Why the process was ended on purpose."""
        self.waiting = False
        """Whether a call is running."""

    def wait(self, ref: ray.ObjectRef, seconds: float | None = None) -> Any:
        self.waiting = True
        try:
            return get_result(ref, seconds)
        except DIED as error:
            if self.ended is not None:
                raise RunStopped(self.ended) from error
            raise RunStopped(
                f"the learner's process died ({death_reason(error)}). What it learned since the last checkpoint is lost"
            ) from error
        except GetTimeoutError as error:
            raise RunStopped(f"the learner did not answer within {seconds:g} s (workers.start_timeout)") from error
        finally:
            self.waiting = False

    def _call(self, method: str, *args: Any) -> Any:
        return self.wait(self._actor.call.remote(method, *args))

    @property
    def version(self) -> int:
        return self.wait(self._actor.version.remote())

    @property
    def whole(self) -> bool:
        return self.wait(self._actor.whole.remote())

    def compute_logprobs(self, batch: TokenBatch) -> TokenBatch:
        sent = self.exchange.to_compute(batch)
        return self.exchange.computed(batch, self.wait(self._actor.compute_logprobs.remote(sent)))

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]:
        return self.exchange.updated(self.wait(self._actor.update.remote(*self.exchange.update(batch), step)))

    def precompute(self, batch: TokenBatch | None) -> int:
        return self._call("precompute", batch)

    def measure(self, batch: TokenBatch) -> dict[str, Stat]:
        return self._call("measure", batch)

    def token_penalties(self, batch: TokenBatch) -> TokenPenalties:
        return self._call("token_penalties", batch)

    def exact_kl(self, batch: TokenBatch) -> Stat:
        return self._call("exact_kl", batch)

    def reference_info(self) -> dict[str, dict[str, Any]]:
        return self._call("reference_info")

    def weights(self) -> Weights:
        return self._call("weights")

    def save(self, folder: str) -> None:
        self._call("save", os.path.abspath(folder))

    def load(self, folder: str) -> None:
        self._call("load", os.path.abspath(folder))

    def export(self, folder: str) -> None:
        self._call("export", os.path.abspath(folder))
