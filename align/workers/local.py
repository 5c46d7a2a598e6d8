"""The backend without Ray: learner, engine and rewards in this process, for tests, debugging and small models."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from align import engines, rewards
from align.config.schema import Recipe
from align.learner.learner import Learner
from align.types import Group, Prompt, Rewards, Stat, TokenBatch
from align.workers.exchange import Exchange, changes
from align.workers.precision import set_precision
from align.workers.processes import resident, write_stacks
from align.workers.reward_runner import run_rewards
from align.workers.shards import generate
from align.workers.turns import start_rollouts


class LocalLearner(Learner):
    """Counts the bytes that `compute_logprobs` and `update` would send to another process."""

    def __init__(self, recipe: Recipe, model_dir: str):
        super().__init__(recipe, model_dir)
        self.exchange = Exchange()

    def compute_logprobs(self, batch: TokenBatch) -> TokenBatch:
        self.exchange.to_compute(batch)
        return self.exchange.computed(batch, changes(batch, super().compute_logprobs(batch)))

    def update(self, batch: TokenBatch, step: int) -> dict[str, Stat]:
        self.exchange.update(batch)
        return self.exchange.updated(super().update(batch, step))


class LocalWorkers:
    """See `align.workers.Workers`. Sets this process's torch threads and precision, and the engine's environment variables."""

    learner_on_gpu = False

    def __init__(self, recipe: Recipe, model_dir: str, max_prompt_tokens: int, learns: bool = True):
        self.recipe = recipe
        if learns and recipe.answers and recipe.model.device != "cpu" and torch.cuda.is_available():
            recipe.engine.check_share(0.5, "with workers.backend: local the learner works on its GPU")
        os.environ.update(recipe.engine.environment)
        torch.set_num_threads(recipe.workers.threads)
        set_precision(recipe.model)
        self.reward = None if recipe.reward is None else rewards.start_reward(recipe.reward)
        if learns:
            self.learner = LocalLearner(recipe, model_dir)
            self.learner_on_gpu = self.learner.policy.device.type == "cuda"
        self.engine = start_rollouts(recipe, model_dir, max_prompt_tokens) if recipe.answers else None

    def generate(self, prompts: Sequence[Prompt], samples: int, seed: int, drawing: engines.Drawing | None = None) -> list[Group]:
        assert self.engine is not None  # only a recipe that trains a reward model has none
        return generate(self.recipe.engine, self.engine, prompts, samples, seed, drawing)

    def compute_rewards(self, groups: Sequence[Group]) -> Rewards:
        assert self.reward is not None  # a recipe that scores answers names one
        return run_rewards(self.reward, self.recipe.reward_limits, groups)

    def publish(self, version: int) -> dict[str, float]:
        assert self.engine is not None  # as in `generate`
        began = time.perf_counter()
        weights = self.learner.weights()
        self.engine.load(version, weights)
        return {"sync/seconds": time.perf_counter() - began, "sync/bytes": float(weights.buffer.nbytes)}

    def memory(self) -> dict[str, float]:
        return {"driver": resident()}

    def write_stacks(self, file: Path) -> None:
        write_stacks(None, file)

    def end_hanging(self, reason: str) -> str:
        return "everything is one process with workers.backend: local, so it is not ended: Ctrl-C stops the run"

    def close(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()
