"""Waits for an actor's result. Its exception is raised here unchanged; its death raises RunStopped."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from align.errors import RunStopped, UserError
from align.manifest import Entry
from align.types import Stat, TokenBatch
from align.weight_sync.packing import Weights
from align.workers.exchange import Exchange

DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""Ray's errors for a process that ended during a call."""


def get_result(ref: ray.ObjectRef, seconds: float | None = None) -> Any:
    """The result of a call. Raises the actor's own UserError, or an error of `DIED` if the actor died."""
    try:
        return ray.get(ref, timeout=seconds)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def death_reason(error: Exception) -> str:
    """Ray's reason for a death, without internal names and guesses."""
    text = " ".join(str(error).split())
    return text.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0][:300]


class RemoteLearner:
    """Calls the learner's methods in its actor and waits for each. Raises RunStopped if the actor died."""

    def __init__(self, actor: Any):
        self._actor = actor
        self.exchange = Exchange()

    def wait(self, ref: ray.ObjectRef, seconds: float | None = None) -> Any:
        try:
            return get_result(ref, seconds)
        except DIED as error:
            raise RunStopped(
                f"the learner's process died ({death_reason(error)}). What it learned since the last checkpoint is lost: run the "
                "same command with --resume"
            ) from error
        except GetTimeoutError as error:
            raise RunStopped(f"the learner did not answer within {seconds:g} s (workers.start_timeout)") from error

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

    def prepare(self, batch: TokenBatch | None) -> int:
        return self._call("prepare", batch)

    def measure(self, batch: TokenBatch) -> dict[str, Stat]:
        return self._call("measure", batch)

    def exact_kl(self, batch: TokenBatch) -> Stat:
        return self._call("exact_kl", batch)

    def reference_info(self) -> dict[str, dict[str, Any]]:
        return self._call("reference_info")

    def weights(self) -> Weights:
        return self._call("weights")

    def save(self, folder: str) -> dict[str, Entry]:
        return self._call("save", os.path.abspath(folder))

    def load(self, folder: str) -> None:
        self._call("load", os.path.abspath(folder))

    def export(self, folder: str) -> None:
        self._call("export", os.path.abspath(folder))
