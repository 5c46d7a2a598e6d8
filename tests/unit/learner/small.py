"""A learner on a tiny transformers model, and batches for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from helpers.paths import PLUGINS
from helpers.rollouts import groups

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Rewards, TokenBatch

PLUGIN = PLUGINS / "systematic.py"


def node(folder: Path, **changes) -> dict:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": "grpo",
        "model": {"path": str(folder)},
        "batch": {"prompts": 4, "samples": 3},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
    } | changes


def make(folder: Path, **changes) -> Learner:
    return Learner(recipes.build(node(folder, **changes)), str(folder))


def batch(learner: Learner, seed: int = 0) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(seed).random(12).astype(np.float32))
    betas = RunState(learner.recipe).betas(0)
    scored = learner.compute_logprobs(replace(pack(groups(seed), rewards), betas=betas))
    return prepare_batch(learner.recipe, scored)


def parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in learner.policy.trained()}


def capture_gradient(learner: Learner, scored: TokenBatch) -> dict[str, torch.Tensor]:
    gradient = {}
    learner.optimizer.step = lambda: gradient.update({n: p.grad.clone() for n, p in learner.policy.trained()})
    learner.update(scored, 0)
    return gradient


def moved(learner: Learner) -> Learner:
    """Away from the reference, as after a first batch."""
    for _, p in learner.policy.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    learner.version = 1
    return learner
