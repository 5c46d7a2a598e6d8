"""The actors: thin shells around the parts, one process each. Constructing one is cheap; `start` loads its model.

What fails in a constructor would reach the driver as a dead actor; what fails in `start` reaches it as the error it is.
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
from align.config.schema import Recipe, RewardLimits
from align.errors import UserError
from align.types import Group, Prompt, Rewards, Stat, TokenBatch
from align.weight_sync.packing import Weights
from align.workers.exchange import changes
from align.workers.precision import set_precision
from align.workers.reward_runner import run_rewards


@dataclass(frozen=True)
class Job:
    """What an actor builds its parts from: plain data and source text, so nothing a user defined is pickled."""

    node: dict[str, Any]
    """The recipe, every default written out."""
    plugins: tuple[plugins.Plugin, ...]
    """The text of the files that its parts are written in."""
    model_dir: str
    max_prompt_tokens: int

    def recipe(self) -> Recipe:
        """The recipe, built in this process. Raises UserError where this node cannot read the model."""
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


@ray.remote
class RolloutActor:
    """One engine."""

    def __init__(self, job: Job):
        self.job = job
        self.engine: engines.RunningEngine | None = None

    def start(self) -> None:
        self._started()

    def _started(self) -> engines.RunningEngine:
        if self.engine is None:
            recipe = self.job.recipe()
            self.engine = engines.started(recipe.engine, self.job.model_dir, recipe.sampling, self.job.max_prompt_tokens)
        return self.engine

    def load(self, version: int, weights: Weights) -> None:
        self._started().load(version, weights)

    def generate(
        self, prompts: Sequence[Prompt], samples: int, seeds: Sequence[int], version: int, weights: Sequence[ray.ObjectRef]
    ) -> list[Group]:
        """`version` is what the engine must hold; one that was restarted does not, and gets it from `weights` ([] before the first)."""
        engine = self._started()
        if engine.version != version:
            engine.load(version, ray.get(weights[0]))
        return engine.generate(prompts, samples, seeds)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


@ray.remote
class LearnerActor:
    """The learner. It is not restarted: its state since the last checkpoint is gone with it."""

    def __init__(self, job: Job):
        self.job = job

    def start(self) -> None:
        # Here, because the other actors share this file and have no use for what the learner imports.
        from align.learner.learner import Learner  # noqa: PLC0415

        self.learner = Learner(self.job.recipe(), self.job.model_dir)

    def compute_logprobs(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The fields that it changed; the whole is kept for the update."""
        batch = TokenBatch(**sent)
        self.computed = self.learner.compute_logprobs(batch)
        return changes(batch, self.computed)

    def update(self, sent: dict[str, Any], onto_computed: bool, step: int) -> dict[str, Stat]:
        return self.learner.update(replace(self.computed, **sent) if onto_computed else TokenBatch(**sent), step)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self.learner, method)(*args)

    def version(self) -> int:
        return self.learner.version

    def weights(self) -> tuple[Weights, int]:
        """The weights and their bytes, as two objects: the driver looks at the second only."""
        weights = self.learner.weights()
        return weights, weights.buffer.nbytes


@ray.remote
class RewardActor:
    """Runs rewards in the main thread of its process, where the time limit of an answer works."""

    def __init__(self, job: Job):
        self.job = job
        self.judge: tuple[rewards.Reward, RewardLimits] | None = None

    def start(self) -> None:
        self._started()

    def _started(self) -> tuple[rewards.Reward, RewardLimits]:
        if self.judge is None:
            recipe = self.job.recipe()
            self.judge = rewards.started(recipe.reward), recipe.reward_limits
        return self.judge

    def compute_rewards(self, groups: Sequence[Group]) -> Rewards:
        reward, limits = self._started()
        return run_rewards(reward, limits, groups)
