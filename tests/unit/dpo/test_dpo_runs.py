"""Whole runs of DPO: resumed bit for bit, measured on held-out rankings, telling what was precomputed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from unit.dpo.pairs import BETA, LORA, hf, log_ratios, node

from align.config import recipes, schema
from align.experience.packing import pack
from align.run.evaluation import Suites
from align.train import train


def rows(path: Path, count: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    drawn = {tuple(rng.integers(0, 10, 4)) for _ in range(count)}
    lines = [{"prompt": f"{a}{b}=", "chosen": f"{c}+{c}", "rejected": f"{d}-{c}{a}"} for a, b, c, d in sorted(drawn)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def preferences(tmp_path: Path) -> dict:
    return {"name": "preferences", "path": rows(tmp_path / "pairs.jsonl", 24, 0), "eval_path": rows(tmp_path / "held_out.jsonl", 9, 1)}


def ran(made: schema.Recipe, folder: Path, **options) -> list[dict]:
    train(made, folder, **options)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/", "tokens/s", "sync/"))} for line in lines]


@pytest.mark.parametrize(
    ("link", "changes"),
    [
        ({}, {}),
        (
            {"coefficient": {"name": "beta_dpo", "momentum": 0.5}, "reference": {"name": "ema", "rate": 0.2}, "weighting": "sampo"},
            {"algorithm": {"name": "dpo", "epochs": 2, "minibatches": 2}, "lora": LORA},
        ),
        ({"reference": "precomputed", "divergence": "jensen_shannon"}, {"algorithm": {"name": "dpo", "minibatches": 2}}),
    ],
    ids=["plain", "beta_dpo, ema, sampo, lora", "precomputed"],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(model: Path, tmp_path: Path, preferences: dict, link: dict, changes: dict):
    lora = changes.get("lora", {})
    keys = {
        "task": preferences,
        "model": {"path": str(model), "lora": lora},
        "evaluation": {"every": 2},
        "link": link,
        "checkpoint": {"every": 2},
        "algorithm": changes.get("algorithm", "dpo"),
    }
    built = [recipes.build(node(model, **keys)) for _ in range(3)]
    whole = ran(built[0], tmp_path / "whole")
    ran(replace(built[1], steps=2), tmp_path / "parts")
    resumed = ran(built[2], tmp_path / "parts", resume=True)
    tensors = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts")]
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(t, tensors[1][n]) for n, t in tensors[0].items())
    steps = [{line["step"]: line for line in lines if "loss/policy" in line} for lines in (whole, resumed)]
    assert steps[0] == steps[1] and len(steps[0]) == 4
    files = [tmp_path / name / "checkpoints" / "step_000004" / "driver.json" for name in ("whole", "parts")]
    states = [json.loads(file.read_text())["coefficients"]["kl"] for file in files]
    assert states[0] == states[1] and (states[0] != {"usual": 0.0})


def test_held_out_rankings_are_measured_before_and_after(model: Path, tmp_path: Path, preferences: dict):
    lines = ran(recipes.build(node(model, task=preferences, steps=6, evaluation={"every": 3}, optimizer={"lr": 3e-2})), tmp_path / "run")
    held_out = [{k.removeprefix("eval/"): v for k, v in line.items()} for line in lines if "eval/rankings/preference/accuracy" in line]
    assert len(held_out) == 3
    assert held_out[0]["rankings/loss/policy"] == pytest.approx(np.log(2), abs=1e-6)
    assert held_out[0]["rankings/preference/margin"] == pytest.approx(0, abs=1e-5)
    assert held_out[-1]["rankings/preference/accuracy"] > 0.6, "the pairs have a rule"
    assert held_out[-1]["rankings/loss/policy"] < held_out[0]["rankings/loss/policy"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["after"]["rankings/preference/accuracy"] == held_out[-1]["rankings/preference/accuracy"]
    trained, initial = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model"), hf(model)
    made = recipes.build(node(model, task=preferences))
    # The exported model gives the last figures, by transformers alone.
    packed = pack(Suites(made, tiny_tokenizer(), made.evaluation.problems).rankings, None)
    x = log_ratios(trained, initial, packed).detach()
    d = x[::2] - x[1::2]
    assert held_out[-1]["rankings/preference/accuracy"] == pytest.approx((d > 0).float().mean().item())
    assert held_out[-1]["rankings/preference/margin"] == pytest.approx(BETA * d.mean().item(), rel=1e-3, abs=1e-4)


def test_what_was_precomputed_is_told(model: Path, tmp_path: Path, preferences: dict, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr("align.telemetry.note", notes.append)
    made = node(model, task=preferences, steps=1, link={"reference": "precomputed"}, evaluation={"every": 0})
    for name, says in (
        ("one", "log-probs of answers computed, the others were kept from before"),
        ("two", "references: the log-probs of all answers were kept from before"),
    ):
        train(recipes.build(made), tmp_path / name)
        assert any(says in note for note in notes), notes
        notes.clear()
