"""The same short training run on the CPU and on the device in float32, compared step by step, and in bfloat16 with its engine there too.

The two float32 runs have their engines on the CPU, so both learn from the same answers as long as their weights agree.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from align.config import recipes
from align.telemetry.writers import read
from align.train import train
from gpu_check.compare import compare
from gpu_check.findings import Findings

RECIPE = Path(__file__).parents[3] / "recipes" / "countdown_grpo.yaml"
MODEL = (
    "model.config={model_type: qwen2, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4, "
    "intermediate_size: 128, max_position_embeddings: 64, tie_word_embeddings: true}"
)
SIZES = {"cuda": {"steps": 20, "batch.prompts": 64, "workers.threads": 4}, "cpu": {"steps": 2, "batch.prompts": 8, "workers.threads": 1}}
"""By device, keys of the recipe."""
COMPARED = ("loss/policy", "kl/ref/exact", "entropy", "grad/norm", "engine/gap", "response/length", "reward/mean", "time/step")


class Leg(NamedTuple):
    device: str
    dtype: str
    engine: str

    def __str__(self) -> str:
        return f"{self.device} {self.dtype}, engine on {self.engine}"


def run(found: Findings, device: str) -> None:
    on_cpu, on_device = Leg("cpu", "float32", "cpu"), Leg(device, "float32", "cpu")
    # The rehearsal's device is the CPU: running it twice would tell nothing.
    legs = dict.fromkeys((on_cpu, on_device, Leg(device, "bfloat16", device)))
    steps = {}
    for number, leg in enumerate(legs):
        with found.case(str(leg)):
            began = time.perf_counter()
            steps[leg] = trained(leg, found.folder / f"train-{number}", SIZES[device])
            found.put(str(leg), {"s": round(time.perf_counter() - began, 1)} | {name: steps[leg][-1][name] for name in COMPARED})
            found.put(f"{leg}, by step", {name: [step[name] for step in steps[leg]] for name in COMPARED})
    if on_cpu in steps and on_device in steps:
        with found.case("float32 on both"):
            compare(found, steps[on_cpu], steps[on_device])


def trained(leg: Leg, folder: Path, size: dict[str, int]) -> list[dict[str, float]]:
    """The metrics of each step. A model of random weights answers nothing right, so the reward pays for length."""
    recipe = recipes.load(
        RECIPE,
        [
            "model.recipe=null",
            MODEL,
            "reward=countdown_wordy",
            *(f"{key}={value}" for key, value in size.items()),
            "task.size=2048",
            "optimizer.warmup_steps=0",
            "evaluation.every=-1",
            "workers.backend=local",
            "workers.rollout=1",
            f"model.device={leg.device}",
            f"model.dtype={leg.dtype}",
            f"engine.device={leg.engine}",
        ],
    )
    train(recipe, folder)
    return read(folder / "metrics.jsonl")
