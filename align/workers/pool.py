"""A pool of equal actors that share a list of calls. Ray restarts an actor that dies; its call goes to the next free actor."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError

from align.errors import RunStopped
from align.workers import head
from align.workers.remote import DIED, death_reason, finished, get_result

log = logging.getLogger(__name__)
KNOCK_SECONDS = 0.5
"""Interval between two calls to a restarting actor: until it is ready, Ray refuses them at once."""


@dataclass(frozen=True)
class CallFailed:
    """Replaces the result of a call that was given up."""

    reason: str


@dataclass(frozen=True)
class Running:
    call: int
    actor: Any
    limit: float
    """Seconds."""
    deadline: float


@dataclass
class Recovering:
    actor: Any
    deadline: float
    knock_at: float = 0.0
    ref: ray.ObjectRef | None = None
    """The call of its `start` that is running, or None."""


class Pool:
    """The actors of one role. Ray restarts them (`max_restarts=-1`), and their `start` may be called again."""

    def __init__(self, role: str, actors: Sequence[Any], start_timeout: float):
        self.role, self.actors, self.start_timeout = role, list(actors), start_timeout
        self._idle = deque(actors)
        self._recovering: list[Recovering] = []
        self._busy: dict[ray.ObjectRef, Running] = {}
        """The calls of `run` by their results."""

    @property
    def free(self) -> list[Any]:
        """The actors that run no call and are not being restarted."""
        return list(self._idle)

    @property
    def recovering(self) -> bool:
        """Whether an actor is being restarted."""
        return bool(self._recovering)

    @property
    def busy(self) -> list[Any]:
        """The actors that run a call of `run`."""
        return [job.actor for job in list(self._busy.values())]

    def run(self, method: str, calls: Sequence[tuple], *, attempts: int, seconds: Sequence[float] | None = None) -> list[Any]:
        """The results in order; `CallFailed` if `attempts` actors died during a call, or it took longer than its `seconds`.

        An actor over its time limit is killed, because its call cannot be interrupted otherwise.
        Raises: RunStopped if no actor is left or restarts.
        """
        results: list[Any] = [None] * len(calls)
        queue, deaths = deque(range(len(calls))), Counter()
        running = self._busy = {}
        try:
            while queue or running:
                while queue and self._idle:
                    call, actor = queue.popleft(), self._idle.popleft()
                    limit = float("inf") if seconds is None else seconds[call]
                    running[getattr(actor, method).remote(*calls[call])] = Running(call, actor, limit, time.monotonic() + limit)
                for ref in self._wait(running):
                    job = running[ref]
                    try:
                        results[job.call] = get_result(ref)
                        self._idle.append(job.actor)
                    except DIED as error:
                        self._died(job.actor, error)
                        deaths[job.call] += 1
                        if deaths[job.call] < attempts:
                            queue.appendleft(job.call)
                        else:
                            results[job.call] = CallFailed(death_reason(error))
                    del running[ref]
                for ref in [ref for ref, job in running.items() if job.deadline <= time.monotonic()]:
                    job = running.pop(ref)
                    results[job.call] = CallFailed(f"its {self.role} process did not answer within {job.limit:g} s and was killed")
                    log.warning("a %s actor did not answer within %g s; it is killed and restarted", self.role, job.limit)
                    ray.kill(job.actor, no_restart=False)
                    self._recover(job.actor)
        except BaseException:
            for job in running.values():  # these actors become free after the call that was given up
                self._recover(job.actor)
            raise
        finally:
            self._busy = {}
        return results

    def call_all(self, method: str, *args: Any, seconds: float) -> None:
        """Call every live actor and wait for all. An actor that dies restarts, and the next call includes it.

        Raises: RunStopped if an actor does not answer in time.
        """
        refs = {getattr(actor, method).remote(*args): actor for actor in self._idle}
        done, late = finished(list(refs), len(refs), seconds) if refs else ([], [])
        if late:
            raise RunStopped(
                f"{len(late)} of {len(refs)} {self.role} actors did not finish `{method}` within {seconds:g} s (workers.start_timeout)"
            )
        for ref in done:
            try:
                get_result(ref)
            except DIED as error:
                self._idle.remove(refs[ref])
                self._died(refs[ref], error)

    def _died(self, actor: Any, error: Exception) -> None:
        log.warning("a %s actor died (%s) and is restarted", self.role, death_reason(error))
        self._recover(actor)

    def _recover(self, actor: Any) -> None:
        self._recovering.append(Recovering(actor, time.monotonic() + self.start_timeout))

    def _wait(self, running: dict[ray.ObjectRef, Running]) -> list[ray.ObjectRef]:
        """Wait for the next event; restarted actors become idle. Returns the finished calls of `running`."""
        self._probe()
        if not running and not self._recovering:
            raise RunStopped(
                f"every {self.role} process died and did not come back; the workers' logs (in the Ray session folder) tell why"
            )
        knocks = {recovering.ref: recovering for recovering in self._recovering if recovering.ref is not None}
        wake = [job.deadline for job in running.values()]
        wake += [recovering.knock_at if recovering.ref is None else recovering.deadline for recovering in self._recovering]
        left = max(min(*wake, time.monotonic() + head.INTERVAL) - time.monotonic(), 0.0)
        head.check()
        if not running and not knocks:
            time.sleep(left)
            return []
        done, _ = ray.wait([*running, *knocks], timeout=left)
        for ref in done:
            if ref in knocks:
                self._on_ready(knocks[ref], ref)
        return [ref for ref in done if ref in running]

    def _probe(self) -> None:
        now = time.monotonic()
        for recovering in [recovering for recovering in self._recovering if recovering.deadline <= now]:
            self._drop(recovering, f"not back within {self.start_timeout:g} s")
        for recovering in self._recovering:
            if recovering.ref is None and recovering.knock_at <= now:
                recovering.ref = recovering.actor.start.remote()

    def _on_ready(self, recovering: Recovering, ref: ray.ObjectRef) -> None:
        try:
            get_result(ref)
            self._recovering.remove(recovering)
            self._idle.append(recovering.actor)
        except ActorUnavailableError:
            recovering.ref, recovering.knock_at = None, time.monotonic() + KNOCK_SECONDS
        except DIED as error:
            self._drop(recovering, death_reason(error))

    def _drop(self, recovering: Recovering, why: str) -> None:
        log.warning("a %s actor does not come back (%s); %d are left", self.role, why, len(self.actors) - 1)
        ray.kill(recovering.actor)
        self._recovering.remove(recovering)
        self.actors.remove(recovering.actor)
