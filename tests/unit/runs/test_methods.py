"""Each recipe of a method that has parts of its own trains two steps on a tiny model, in this process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers.models import tiny_model
from helpers.paths import ROOT

from align.config import recipes
from align.inspect.explain import explain
from align.train import train

METHODS = [
    *("log_variance", "copg", "trajectory_balance"),
    *("fdpg_forward_kl", "fdpg_reverse_kl", "fdpg_jensen_shannon", "fdpg_total_variation", "fdpg_pearson", "fdpg_neyman"),
    *("rpg_fkl", "rpg_rkl", "rpg_ufkl", "rpg_urkl"),
    *("rpg_fkl_reinforce", "rpg_rkl_reinforce", "rpg_ufkl_reinforce", "rpg_urkl_reinforce"),
    *("window_leverage", "window_staq", "mvi"),
    *("cauchy_schwarz", "ra_dpo_cvar", "ra_dpo_entropic", "alphanet", "bdkd", "pld", "sce_ema"),
]
TINY = [
    "steps=2",
    "task={name: countdown, size: 8}",
    "reward=countdown_wordy",
    "batch={prompts: 4, samples: 3}",
    "sampling.max_tokens=6",
    "workers={backend: local, rollout: 1}",
    "evaluation.every=-1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", METHODS)
def test_it_trains(name: str, model: Path, tmp_path: Path):
    recipe = recipes.load(ROOT / "recipes" / "methods" / f"{name}.yaml", [*TINY, f"model={{path: {model}, recipe: null}}"])
    assert "not stated" not in explain(recipe)
    train(recipe, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "grad/norm" in line]
    assert len(steps) == 2 and all(math.isfinite(line["loss/policy"]) and line["grad/norm"] > 0 for line in steps)
