"""Learners of DPO on tiny models, random pairs for them, and the same log-ratios by transformers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Episode, Group, Prompt, Stat, TokenBatch

BETA = 0.3
LORA = {"rank": 4, "alpha": 8.0}


def node(folder: Path, *, link: dict | None = None, **changes) -> dict:
    return {
        "steps": 4,
        "task": {"name": "preferences", "path": "nowhere.jsonl"},
        "algorithm": "dpo",
        "batch": {"prompts": 4},
        "model": {"path": str(folder)},
        "sampling": {"max_tokens": 8, "temperature": 0.7},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
        "regularizers": {"kl": {"placement": "link", "coefficient": BETA} | (link or {})},
    } | changes


def make(folder: Path, **changes) -> Learner:
    return Learner(recipes.build(node(folder, **changes)), str(folder))


def moved(learner: Learner) -> Learner:
    """Away from the reference, as after a first batch."""
    for _, p in learner.policy.trained():
        p.data += 0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    learner.version = 1
    return learner


def pairs(seed: int = 0, count: int = 4, answers: int = 2) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, rng.integers(1, 8)).astype(np.int32), "") for _ in range(answers)),
        )
        for g in range(count)
    ]


def batch(learner: Learner, seed: int = 0, step: int = 0, **keys) -> TokenBatch:
    betas = RunState(learner.recipe).betas(step)
    return prepare_batch(learner.recipe, learner.compute_logprobs(replace(pack(pairs(seed, **keys), None), betas=betas)))


def gradient(learner: Learner, scored: TokenBatch) -> tuple[dict[str, Tensor], dict[str, Stat]]:
    found: dict[str, Tensor] = {}
    learner.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in learner.policy.trained()})
    return found, learner.update(scored, 0)


def log_ratios(policy: torch.nn.Module, reference: torch.nn.Module, packed: TokenBatch, temperature: float = 0.7) -> Tensor:
    """log pi/ref of each answer by transformers alone, each sequence by itself."""
    found = []
    for ids, start, n in zip(packed.input_ids, packed.first_columns.tolist(), packed.lengths.tolist(), strict=True):
        row, answer = ids[None, : start + n], ids[start : start + n, None]
        with torch.no_grad():
            ref = torch.log_softmax(reference(row).logits[0, start - 1 : start + n - 1] / temperature, -1).gather(1, answer).sum()
        found.append(torch.log_softmax(policy(row).logits[0, start - 1 : start + n - 1] / temperature, -1).gather(1, answer).sum() - ref)
    return torch.stack(found)


def hf(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder)
