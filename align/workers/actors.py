"""Ray actors: thin wrappers of the parts, one process each. Construction is cheap; `start` loads the model.

The driver sees an error in a constructor only as a dead actor, but gets an error in `start` itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from align import engines, plugins, rewards
from align.config import nodes
from align.config.guard import guarded
from align.config.schema import Recipe, RewardLimits
from align.errors import UserError
from align.types import Group, Prompt, Rewards, Stat, TokenBatch
from align.weight_sync.flattening import Weights
from align.workers.exchange import changes
from align.workers.precision import set_precision
from align.workers.processes import offer_stacks, resident
from align.workers.reward_runner import run_rewards
from align.workers.shards import checked_groups
from align.workers.turns import start_rollouts


@dataclass(frozen=True)
class Job:
    """The data from which an actor builds its parts: plain data and source text, so that no user-defined object is pickled."""

    node: dict[str, Any]
    """The recipe, with every default written out."""
    plugins: tuple[plugins.Plugin, ...]
    """The source text of the files that define its parts."""
    model_dir: str
    max_prompt_tokens: int
    stacks: str = ""
    """A folder of the driver's machine, where processes write their stacks when asked."""

    def recipe(self) -> Recipe:
        """The recipe, built in this process. Raises UserError if this node cannot read the model."""
        plugins.install(self.plugins)
        recipe = nodes.build(Recipe, self.node, "")
        torch.set_num_threads(recipe.workers.threads)
        set_precision(recipe.model)
        if not os.path.isdir(self.model_dir):
            raise UserError(
                f"the node {ray.util.get_node_ip_address()} cannot read the model folder {self.model_dir}: keep the run "
                "folder and the model on a path that every node of the cluster shares"
            )
        return recipe


class Process:
    """The calls that every actor has: memory and stacks of its process."""

    role = ""

    def __init__(self, job: Job):
        self.job = job
        offer_stacks(job.stacks, self.role)

    def memory(self) -> float:
        """Resident bytes."""
        return resident()


@ray.remote
class RolloutActor(Process):
    """One engine."""

    role = "rollout"

    def __init__(self, job: Job):
        super().__init__(job)
        self.engine: engines.RunningEngine | None = None

    def start(self) -> None:
        self._started()

    def _started(self) -> engines.RunningEngine:
        if self.engine is None:
            self.recipe = self.job.recipe()
            with guarded(self.recipe):
                self.engine = start_rollouts(self.recipe, self.job.model_dir, self.job.max_prompt_tokens)
        return self.engine

    def load(self, version: int, weights: Weights) -> None:
        engine = self._started()
        with guarded(self.recipe):
            engine.load(version, weights)

    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        seeds: Sequence[int],
        version: int,
        weights: Sequence[ray.ObjectRef],
        drawing: engines.Drawing | None = None,
    ) -> list[Group]:
        """Generate with weights `version`. A restarted engine lacks them and loads them from `weights` ([] before the first publish)."""
        engine = self._started()
        with guarded(self.recipe):
            if engine.version != version:
                engine.load(version, ray.get(weights[0]))
            return checked_groups(engine, prompts, samples, seeds, drawing)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


@ray.remote
class LearnerActor(Process):
    """The learner. It is not restarted, because its state since the last checkpoint is lost when it dies."""

    role = "learner"

    def start(self) -> None:
        # Imported here, because the other actors in this file do not need the learner's libraries.
        from align.learner.learner import Learner  # noqa: PLC0415

        self.recipe = self.job.recipe()
        with guarded(self.recipe):
            self.learner = Learner(self.recipe, self.job.model_dir)

    def compute_logprobs(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The changed fields of the batch; the actor keeps the whole batch for the update."""
        batch = TokenBatch(**sent)
        with guarded(self.recipe):
            self.computed = self.learner.compute_logprobs(batch)
        return changes(batch, self.computed)

    def update(self, sent: dict[str, Any], onto_computed: bool, step: int) -> dict[str, Stat]:
        with guarded(self.recipe):
            return self.learner.update(replace(self.computed, **sent) if onto_computed else TokenBatch(**sent), step)

    def call(self, method: str, *args: Any) -> Any:
        with guarded(self.recipe):
            return getattr(self.learner, method)(*args)

    def version(self) -> int:
        return self.learner.version

    def whole(self) -> bool:
        return self.learner.whole

    def weights(self) -> tuple[Weights, int]:
        """The weights and their size in bytes, as two objects: the driver reads only the size."""
        weights = self.learner.weights()
        return weights, weights.buffer.nbytes


@ray.remote
class RewardActor(Process):
    """Runs rewards in the main thread of its process, because the time limit needs signals."""

    role = "reward"

    def __init__(self, job: Job):
        super().__init__(job)
        self.judge: tuple[rewards.Reward, RewardLimits] | None = None

    def start(self) -> None:
        self._started()

    def _started(self) -> tuple[rewards.Reward, RewardLimits]:
        if self.judge is None:
            recipe = self.job.recipe()
            with guarded(recipe):
                self.judge = rewards.start_reward(recipe.reward), recipe.reward_limits
        return self.judge

    def compute_rewards(self, groups: Sequence[Group]) -> Rewards:
        reward, limits = self._started()
        return run_rewards(reward, limits, groups)
