"""One GRPO update with the exact KL of a random model of the 1.5B shape: seconds by phase, memory, waits of the host."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from align.config import recipes
from align.config.schema import Recipe
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Episode, Group, Prompt, Rewards, TokenBatch
from gpu_check.findings import Findings
from gpu_check.measure import wait
from gpu_check.models import SHAPES, random_model
from gpu_check.phases import phases
from gpu_check.waits import waits

RECIPE = Path(__file__).parents[3] / "recipes" / "countdown_grpo.yaml"
SIZES = {
    "cuda": {"groups": 4, "samples": 8, "prompt": 256, "response": 1024, "micro_tokens": 16384},
    "cpu": {"groups": 2, "samples": 4, "prompt": 20, "response": 60, "micro_tokens": 400},
}


def run(found: Findings, device: str) -> None:
    with tempfile.TemporaryDirectory(dir=found.folder) as folder:
        learner = started(found, random_model(Path(folder), device), device)
        updated(found, learner, device)


def started(found: Findings, model: Path, device: str) -> Learner:
    size = SIZES[device]
    recipe = recipes.load(
        RECIPE,
        [
            "model.recipe=null",
            f"model.path={model}",
            "model.dtype=bfloat16",
            "model.activation_checkpointing=true",
            f"model.device={device}",
            f"batch.micro_tokens={size['micro_tokens']}",
            f"sampling.max_tokens={size['response']}",
            "optimizer.lr=1e-6",
            "workers.backend=local",
            "workers.rollout=1",
        ],
    )
    began = time.perf_counter()
    learner = Learner(recipe, str(model))
    wait(device)
    found.put("load, seconds", round(time.perf_counter() - began, 2))
    return learner


def updated(found: Findings, learner: Learner, device: str) -> None:
    """Two updates timed by phase, one whose waits are counted, and the weights packed for an engine."""
    size, recipe = SIZES[device], learner.recipe
    batch = random_batch(recipe, size["groups"], size["samples"], size["prompt"], size["response"], SHAPES[device]["vocab_size"])
    found.put("sequences, response tokens", [len(batch.lengths), len(batch.seq_ids)])
    for step, turn in enumerate(("first step (compiles)", "second step")):
        found.put(f"{turn}, seconds", turn_seconds(found, learner, batch, step, device))
    if device == "cuda":
        with found.case("waits"):
            found.put("waits of the host in score, by place", waits(partial(learner.compute_logprobs, batch)))
            scored = prepare_batch(recipe, learner.compute_logprobs(batch))
            found.put("waits of the host in update, by place", waits(partial(learner.update, scored, 2)))
    with found.case("weights"):
        began = time.perf_counter()
        packed = learner.weights().buffer.nbytes
        spent = time.perf_counter() - began
        found.put("weights packed", {"seconds": round(spent, 3), "GB/s": round(packed / spent / 1e9, 2)})


def turn_seconds(found: Findings, learner: Learner, batch: TokenBatch, step: int, device: str) -> dict[str, float]:
    """Score and update a batch: the seconds of both, and inside them of the decoder, the head and the optimizer."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = Counter()
    with phases(spent, "score", device):
        scored = prepare_batch(learner.recipe, learner.compute_logprobs(batch))
    with phases(spent, "update", device):
        stats = learner.update(scored, step)
    if device == "cuda":
        found.put("peak GiB", round(torch.cuda.max_memory_allocated() / 2**30, 1))
    found.put("metrics", {name: stats[name].mean for name in ("loss/policy", "kl/ref/exact", "grad/norm")})
    return {name: round(value, 3) for name, value in spent.items()}


def random_batch(recipe: Recipe, groups: int, samples: int, prompt: int, response: int, vocabulary: int) -> TokenBatch:
    """Random tokens, as the trainer packs what an engine answers; responses of nine tenths of `response` and more."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(3, vocabulary, count).astype(np.int32)

    answered = [
        Group(
            prompt=Prompt(id=str(i), text="", token_ids=tuple(tokens(prompt).tolist())),
            episodes=tuple(Episode.single_turn(tokens(int(n)), "") for n in rng.integers(response * 9 // 10, response + 1, samples)),
        )
        for i in range(groups)
    ]
    rewards = Rewards(values=rng.random(groups * samples).astype(np.float32))
    batch = pack(answered, rewards)
    return replace(batch, betas=RunState(recipe).betas(0))
