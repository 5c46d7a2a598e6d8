"""`align audit RUN`: what the metrics of a run say, and the estimators on fresh answers of its model against plain forward passes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from align.audit.rollouts import estimate
from align.cli import app
from align.config import recipes
from align.config.nodes import resolved
from align.types import Episode, Group, Prompt


def align(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder as `align train` leaves it: metrics, a model, and the model it came from."""
    folder = tmp_path_factory.mktemp("run")
    initial, _ = (tiny_model(folder / name, seed=seed) for seed, name in enumerate(("other", "model")))
    built = recipes.build(
        {
            "steps": 2,
            "task": "countdown",
            "reward": "countdown_exact",
            "algorithm": "grpo",
            "model": {"path": str(initial)},
            "workers": {"backend": "local"},
            "sampling": {"max_tokens": 8, "temperature": 0.7},
            "regularizers": {"kl": {"coefficient": 0.1}, "js": {"divergence": "jensen_shannon", "coefficient": 0.1}},
        }
    )
    OmegaConf.save(OmegaConf.create(resolved(built)), folder / "recipe.yaml")
    lines = [
        {"step": 0, "divergence/kl": 0.5, "kl/ref/k1": 0.1, "clamped/kl": 0.0, "kl/initial": 9.0, "reward/mean": 1.0},
        {"step": 1, "divergence/kl": 1.5, "kl/ref/k1": None, "clamped/kl": 0.25},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_run_shows_its_metrics_and_fresh_estimates(run):
    found = json.loads(align("audit", run, "--json").stdout)
    assert {row["name"]: (row["first"], row["last"], row["mean"], row["largest"]) for row in found["logged"]} == {
        "divergence/kl": (0.5, 1.5, 1.0, 1.5),
        "kl/ref/k1": (0.1, 0.1, 0.1, 0.1),
        "clamped/kl": (0.0, 0.25, 0.125, 0.25),
    }
    rows = {(row["divergence"], row["estimator"]): row for row in found["fresh"]}
    assert rows.keys() == {("reverse_kl", "k1"), ("reverse_kl", "k3"), ("reverse_kl", "exact"), ("js", "sampled"), ("js", "exact")}
    assert rows["reverse_kl", "exact"]["off"] == 0
    # 16 prompts of 4 answers: the sampled means agree with the exact one as far as their spread allows.
    for row in found["fresh"]:
        assert abs(row["off"]) < 5 * row["spread"] / math.sqrt(16 * 4)
    shown = align("audit", run).stdout
    assert "clamped/kl" in shown and "reverse_kl" in shown and "the final model against the initial one" in shown


def test_estimates_by_arithmetic(run):
    """k1, k3 and exact of every token, from plain forward passes of both models."""
    built, rng = recipes.load(run / "recipe.yaml"), np.random.default_rng(0)
    groups = [
        Group(
            prompt=Prompt(id=str(i), text="", token_ids=(3, 4, 5 + i)),
            episodes=tuple(Episode.single_turn(rng.integers(3, 13, n).astype(np.int32), "") for n in (3, 1 + i)),
        )
        for i in range(3)
    ]
    log_u, exact = [], []
    models = [AutoModelForCausalLM.from_pretrained(run / folder) for folder in ("model", "other")]
    for group in groups:
        for episode in group.episodes:
            answer = torch.from_numpy(episode.trained_ids).long()
            ids = torch.tensor([[*group.prompt.token_ids, *answer.tolist()]])
            with torch.no_grad():
                pi, ref = (torch.log_softmax(m(ids).logits[0, 2:-1].double() / 0.7, -1) for m in models)
            log_u += (pi - ref).gather(1, answer[:, None]).squeeze(1).tolist()
            exact += (pi.exp() * (pi - ref)).sum(-1).tolist()
    x, kl = np.array(log_u), np.mean(exact)
    rows = {row.estimator: row for row in estimate(built, run / "model", run / "other", groups) if row.divergence == "reverse_kl"}
    for name, values in {"k1": x, "k3": np.exp(-x) - 1 + x, "exact": np.array(exact)}.items():
        assert rows[name].mean == pytest.approx(values.mean(), rel=1e-4)
        assert rows[name].spread == pytest.approx(values.std() / kl, rel=1e-4)
        assert rows[name].off == pytest.approx(values.mean() / kl - 1, abs=1e-4)


def test_a_run_without_a_model_shows_its_metrics(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    result = align("audit", tmp_path)
    assert result.exit_code == 0 and "No fresh answers: the folder has no final model." in result.stdout
    assert align("audit", tmp_path, "steps=3").exit_code == 2
