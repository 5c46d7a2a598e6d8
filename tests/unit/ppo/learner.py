"""A PPO learner on a tiny model, away from its reference, and a batch for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from helpers.paths import PLUGINS
from torch import Tensor

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Episode, Group, Prompt, Rewards, TokenBatch

PLUGIN = PLUGINS / "systematic.py"
KL = {"kl": {"coefficient": 0.3, "placement": "reward", "credit": "summed", "divergence": "jensen_shannon"}}
CRITICS = {
    "shared": {"name": "shared"},
    "detached": {"name": "shared", "detach": True},
    "separate": {"name": "separate"},
    "lora": {"name": "shared"},
}


def node(folder: Path, *, lora: int = 0, micro_tokens: int = 10_000, algorithm: dict | None = None, **changes) -> dict:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": {"name": "ppo"} | (algorithm or {}),
        "model": {"path": str(folder), "lora": {"rank": lora}},
        "batch": {"prompts": 4, "samples": 3, "micro_tokens": micro_tokens},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
        "regularizers": KL,
    } | changes


def make(folder: Path, **changes) -> Learner:
    """Away from its reference, and its critic away from 0."""
    made = Learner(recipes.build(node(folder, **changes)), str(folder))
    for _, p in made.trained():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    made.version = 1  # the first batch must find it at the reference, and stops the run
    return made


def critic(kind: str, **keys) -> dict:
    return {"algorithm": {"critic": CRITICS[kind]} | keys, "lora": 2 if kind == "lora" else 0}


def groups() -> list[Group]:
    rng = np.random.default_rng(0)
    return [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, rng.integers(1, 7)).astype(np.int32), "") for _ in range(3)),
        )
        for g in range(4)
    ]


def scored(made: Learner) -> TokenBatch:
    rewards = Rewards(values=np.random.default_rng(0).random(12).astype(np.float32))
    betas = RunState(made.recipe).betas(0)
    return made.compute_logprobs(replace(pack(groups(), rewards), betas=betas))


def shaped(made: Learner) -> TokenBatch:
    return prepare_batch(made.recipe, scored(made))


def gradients(made: Learner) -> tuple[list[dict[str, Tensor]], dict]:
    """Of each step of an update, by name, and the statistics; nothing is moved."""
    found: list[dict[str, Tensor]] = []
    made.optimizer.step = lambda: found.append({n: p.grad.clone() for n, p in made.trained() if p.grad is not None})
    return found, made.update(shaped(made), 0)


def parameters(made: Learner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in made.trained()}
