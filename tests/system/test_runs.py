"""Whole runs as a user starts them: Ray, vLLM and a learner; LoRA; a run that is killed and resumed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import command
from helpers.paths import RECIPES
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.run.evaluation import evaluate

TINY = (
    "model={config: {model_type: qwen2, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, "
    "intermediate_size: 64, max_position_embeddings: 64, tie_word_embeddings: true}}"
)
HIDDEN, PROMPTS, SAMPLES = 64, 32, 8
SMALL = [
    "model.recipe=null",
    TINY,
    "reward=countdown_wordy",
    "batch.prompts=8",
    "batch.samples=4",
    "task.size=64",
    "evaluation.problems=8",
    "evaluation.samples=2",
]
LOCAL = ["workers.backend=local", "workers.rollout=1"]


def arguments(recipe: str, out: Path, *overrides: str) -> list[str]:
    return ["train", str(RECIPES / f"{recipe}.yaml"), *SMALL, *overrides, "--out", str(out)]


def run(recipe: str, out: Path, *overrides: str) -> list[dict]:
    done = command.run(arguments(recipe, out, *overrides), out.parent, out.parent / "output")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def steps(metrics: list[dict]) -> list[dict]:
    return [line for line in metrics if "loss/policy" in line]


@pytest.mark.parametrize("workers", [[], LOCAL], ids=["ray", "one process"])
def test_vllm_and_a_learner(workers: list[str], tmp_path: Path):
    """On Ray a batch is small: of the reference's states, [T, H] in float32, a step would send T * H * 4 bytes, and get as many back."""
    metrics = steps(run("countdown_vllm", tmp_path / "run", "steps=4", f"batch.prompts={PROMPTS}", f"batch.samples={SAMPLES}", *workers))
    assert len(metrics) == 4
    for line in metrics if workers == [] else []:
        states = line["response/length"] * PROMPTS * SAMPLES * HIDDEN * 4
        assert 5 * (line["bytes/to_learner"] + line["bytes/from_learner"]) < 2 * states
        assert line["bytes/from_learner"] < line["bytes/to_learner"]
    assert all(line["engine/gap"] < 1e-5 for line in metrics), "after every push the engine holds the learner's weights"
    assert metrics[0]["kl/ref/exact"] == pytest.approx(0, abs=1e-6) and metrics[-1]["kl/ref/exact"] > 1e-6
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def test_lora_on_ray(tmp_path: Path):
    out = tmp_path / "run"
    metrics = steps(run("countdown_lora", out, "steps=3", "model.lora.rank=4"))
    assert metrics[0]["kl/ref/exact"] == pytest.approx(0, abs=1e-6) and metrics[-1]["kl/ref/exact"] > 1e-6
    assert all(line["engine/gap"] < 1e-5 for line in metrics)
    assert (out / "model" / "adapter" / "adapter_model.safetensors").is_file()
    start, end = (load_file(out / folder / "model.safetensors") for folder in ("initial", "model"))
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed and all("_proj" in name for name in changed), "LoRA touches the linear layers alone"
    after = json.loads((out / "summary.json").read_text())["after"]
    again = evaluate(out)
    assert again["countdown/length"] > 1 and again == {name: after[name] for name in again}, "eval draws what the run's end drew"


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            "sampling.temperature=0.7",
            "model.lora.rank=4",
            "algorithm={name: grpo, epochs: 2, minibatches: 2}",
            "regularizers.kl.reference=ema",
            "regularizers.kl.coefficient={name: adaptive, target: 0.01, horizon: 100}",
        ],
    ],
    ids=["frozen", "lora, ema, adaptive, several updates"],
)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, options: list[str]):
    recipe = ("countdown_grpo", *LOCAL, "steps=8", "checkpoint.every=2", "optimizer.lr=1e-2", *options)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = steps(run(recipe[0], whole, *recipe[1:]))
    process = command.start(arguments(recipe[0], parts, *recipe[1:]), tmp_path, tmp_path / "output")
    give_up = time.monotonic() + 120
    while not (parts / "checkpoints" / "step_000002" / "driver.json").is_file():
        assert time.monotonic() < give_up and process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (parts / "summary.json").exists(), "the kill came too late to mean anything"
    resumed = steps(run(recipe[0], parts, *recipe[1:], "--resume"))
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (whole, parts)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    timing = ("time", "memory", "tokens/s", "sync")
    for a, b in zip(uninterrupted, resumed, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith(timing)} == {k: v for k, v in b.items() if not k.startswith(timing)}


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path):
    runs = [
        steps(
            run(
                "countdown_grpo",
                tmp_path / name,
                *LOCAL,
                "steps=2",
                f"seed={seed}",
                "evaluation.every=-1",
                "evaluation.problems=192",
                "evaluation.samples=8",
            )
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    losses = [[(line["loss/policy"], line["grad/norm"]) for line in r] for r in runs]
    assert losses[0] == losses[1] != losses[2]
