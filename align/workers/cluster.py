"""The Ray backend: a learner actor, rollout actors and reward actors, driven from the process that calls it.

The driver owns the newest weights, as the result of its call. So they survive the learner's process and stay in the object store, and
each engine, also one restarted later, reads them there without a copy through the driver.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import RayError

from align.config.nodes import plugins_of, resolved
from align.config.schema import Recipe
from align.engines import Drawing
from align.errors import RunStopped, UserError
from align.types import Group, Prompt, Rewards
from align.workers import head
from align.workers.actors import Job, LearnerActor, RewardActor, RolloutActor
from align.workers.connect import connect
from align.workers.pool import CallFailed, Pool
from align.workers.processes import resident, write_stacks
from align.workers.remote import DIED, RemoteLearner, death_reason, finished, get_result
from align.workers.resources import Need, needs, remedy, too_busy, too_large
from align.workers.reward_runner import concatenate_rewards, failed_rewards
from align.workers.shards import even_slices, group_chunks, groups_in_order, units

ATTEMPTS = 3
"""Number of rollout actors that may die on one unit before the run stops: the unit is then the likely cause."""
REWARD_ATTEMPTS = 2
"""Number of reward actors that may die on one chunk before its rewards count as failed: the chunk is then the likely cause."""
ANSWER_SECONDS = 2.0
"""Seconds to wait for the answers about memory."""
CHUNK = 32
"""Answers in one call of a reward actor, unless the reward is batched. An answer that cannot be interrupted costs the whole call."""
MARGIN = 10.0
"""Seconds that a reward actor gets beyond the time limits of its answers."""
RELEASE_SECONDS = 10.0
"""Seconds for which the resources of an ended job may still look used."""
CLOSE_SECONDS = 5.0
NO_ENGINES = Need("rollout", 0, 0.0, 0.0)


class RayWorkers:
    """See `align.workers.Workers`. Raises UserError if the actors do not fit into the cluster, RunStopped if they do not start."""

    def __init__(
        self,
        recipe: Recipe,
        model_dir: str,
        max_prompt_tokens: int,
        address: str | None,
        learns: bool = True,
        phase: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ):
        self.recipe = recipe
        self.pools: list[Pool] = []
        self.learner_actor: Any = None
        with phase("Ray"):
            self.joined = connect(address)
            if self.joined and not (address or "").startswith("ray://"):
                patience = head.PRIVATE_SECONDS if address is None else head.ATTACHED_SECONDS
                head.watch(ray.get_runtime_context().gcs_address, patience)
        self.stacks = TemporaryDirectory(prefix="align-stacks-")
        job = Job(resolved(recipe), plugins_of(recipe), os.path.abspath(model_dir), max_prompt_tokens, self.stacks.name)
        try:
            with phase("learner and engines" if learns else "engines"):
                self._place(job, learns)
        except BaseException:
            self.close()
            raise

    def _place(self, job: Job, learns: bool) -> None:
        wanted = {need.role: need for need in needs(self.recipe, _gpus_of_cluster(), learns)}
        _check(list(wanted.values()))
        if learns:
            self.learner_actor = LearnerActor.options(**self._options(wanted["learner"], {})).remote(job)
            self.learner = RemoteLearner(self.learner_actor)
        self.learner_on_gpu = learns and wanted["learner"].gpus > 0
        self.rollouts = self._pool(RolloutActor, wanted.get("rollout", NO_ENGINES), job, self.recipe.engine.environment)
        if "reward" in wanted:
            self.rewards = self._pool(RewardActor, wanted["reward"], job, {})
        self._version, self._weights = 0, []
        self._start()

    def _pool(self, kind: Any, need: Need, job: Job, environment: Mapping[str, str]) -> Pool:
        actor = kind.options(**self._options(need, environment), max_restarts=-1)
        pool = Pool(need.role, [actor.remote(job) for _ in range(need.count)], self.recipe.workers.start_timeout)
        self.pools.append(pool)
        return pool

    def _options(self, need: Need, environment: Mapping[str, str]) -> dict[str, Any]:
        variables = {**environment, "OMP_NUM_THREADS": str(self.recipe.workers.threads)}
        if not need.gpus:
            # Ray shows every GPU of the node to an actor that reserved none, and all such actors would use the first.
            variables["CUDA_VISIBLE_DEVICES"] = ""
        else:
            variables |= allocator(variables)
        return {"num_cpus": need.cpus, "num_gpus": need.gpus, "runtime_env": {"env_vars": variables}}

    def _start(self) -> None:
        starting = {} if self.learner_actor is None else {self.learner_actor.start.remote(): "learner"}
        starting |= {actor.start.remote(): pool.role for pool in self.pools for actor in pool.actors}
        deadline = time.monotonic() + self.recipe.workers.start_timeout
        while starting:
            done, _ = finished(list(starting), 1, deadline - time.monotonic())
            if not done:
                free = ray.available_resources()
                raise RunStopped(
                    f"not up within {self.recipe.workers.start_timeout:g} s (workers.start_timeout): "
                    f"{', '.join(sorted(starting.values()))}. The cluster has {free.get('CPU', 0):g} CPUs and "
                    f"{free.get('GPU', 0):g} GPUs free: either the actors found no place, or their models load slowly"
                )
            role = starting.pop(done[0])
            try:
                get_result(done[0])
            except DIED as error:
                raise RunStopped(f"the {role} actor died while it started ({death_reason(error)})") from error

    def generate(self, prompts: Sequence[Prompt], samples: int, seed: int, drawing: Drawing | None = None) -> list[Group]:
        cut = units(self.recipe.engine, prompts, samples, seed, self.recipe.workers.rollout)
        calls = [(unit.prompts, samples, unit.seeds, self._version, self._weights, drawing) for unit in cut]
        results = self.rollouts.run("generate", calls, attempts=ATTEMPTS)
        failed = next((r for r in results if isinstance(r, CallFailed)), None)
        if failed is not None:
            raise RunStopped(
                f"{ATTEMPTS} rollout actors died one after the other over the same prompts ({failed.reason}); less memory, by "
                "fewer batch.samples or a smaller sampling.max_tokens, is the usual remedy"
            )
        return groups_in_order(cut, results)

    def compute_rewards(self, groups: Sequence[Group]) -> Rewards:
        limits = self.recipe.reward_limits
        batched = self.recipe.reward.batched
        chunks = even_slices(groups, self.recipe.workers.reward) if batched else list(group_chunks(groups, CHUNK))
        seconds = [limits.seconds * sum(len(g.episodes) for g in chunk) + MARGIN for chunk in chunks]
        results = self.rewards.run("compute_rewards", [(chunk,) for chunk in chunks], attempts=REWARD_ATTEMPTS, seconds=seconds)
        return concatenate_rewards(
            [failed_rewards(chunk, limits, r.reason) if isinstance(r, CallFailed) else r for chunk, r in zip(chunks, results, strict=True)]
        )

    def publish(self, version: int) -> dict[str, float]:
        began, seconds = time.perf_counter(), self.recipe.workers.start_timeout
        weights, size = self.learner_actor.weights.options(num_returns=2).remote()
        nbytes = self.learner.wait(size, seconds)
        self._version, self._weights = version, [weights]
        self.rollouts.call_all("load", version, weights, seconds=seconds)
        return {"sync/seconds": time.perf_counter() - began, "sync/bytes": float(nbytes)}

    def memory(self) -> dict[str, float]:
        asked = {actor.memory.remote(): pool.role for pool in self.pools for actor in pool.free}
        if self.learner_actor is not None:
            asked[self.learner_actor.memory.remote()] = "learner"
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
        found = {"driver": resident()}
        for ref in done:
            with suppress(*DIED):  # the next call to it reports that
                found[asked[ref]] = max(found.get(asked[ref], 0.0), get_result(ref))
        return found

    def write_stacks(self, file: Path) -> None:
        write_stacks(Path(self.stacks.name), file)

    def end_hanging(self, reason: str) -> str:
        if engines := self.rollouts.busy:
            for actor in engines:
                ray.kill(actor, no_restart=False)
            return f"{len(engines)} rollout processes are killed and restarted, and their prompts are answered again"
        if any(pool.busy for pool in self.pools):
            return "the rewards have time limits of their own"
        if any(pool.recovering for pool in self.pools):
            return f"a process is being restarted, which may take {self.recipe.workers.start_timeout:g} s (workers.start_timeout)"
        if self.learner_actor is None or not self.learner.waiting:
            return "no worker is at work, so none is ended: Ctrl-C stops the run"
        self.learner.ended = f"{reason}; the learner's process was ended, and what it learned since the last checkpoint is lost"
        ray.kill(self.learner_actor)
        return "the learner's process is ended, and the run stops"

    def close(self) -> None:
        # Of a cluster whose head is gone nothing can be ended, and the error that the run has met says more.
        if not head.lost():
            with suppress(RayError, ConnectionError, RuntimeError):
                self._end_actors()
        if self.joined:
            self.joined = False
            head.leave()
            ray.shutdown()
        self.stacks.cleanup()

    def _end_actors(self) -> None:
        actors, self.pools, learner, self.learner_actor = [a for p in self.pools for a in p.actors], [], self.learner_actor, None
        engines = [actor.close.remote() for actor in self.rollouts.actors] if actors else []
        if engines:
            ray.wait(engines, num_returns=len(engines), timeout=CLOSE_SECONDS)
        for actor in [*actors, *([learner] if learner is not None else [])]:
            ray.kill(actor)


def allocator(variables: Mapping[str, str]) -> dict[str, str]:
    """Allocator settings against fragmentation: torch's default allocator caches a segment for each micro-batch shape and runs out of
    memory although some is free. Settings of the user or the engine stay, also under torch's older name, which CUDA reads first."""
    known = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return {} if any(name in os.environ or name in variables for name in known) else {known[0]: "expandable_segments:True"}


def _gpus_of_cluster() -> float:
    return ray.cluster_resources().get("GPU", 0.0)


def _check(wanted: Sequence[Need]) -> None:
    problem = too_large(wanted, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if problem is not None:
        raise UserError(f"{problem}; {remedy(wanted, ray.cluster_resources())}")
    deadline = time.monotonic() + RELEASE_SECONDS
    while (problem := too_busy(wanted, free := ray.available_resources())) is not None:
        if time.monotonic() > deadline:
            raise UserError(f"{problem}, other jobs hold the rest; wait for them, or {remedy(wanted, free)}")
        time.sleep(0.5)
