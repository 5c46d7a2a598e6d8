"""Two steps of every recipe in recipes/methods, on a tiny model in this process: it runs, its numbers are finite, it explains itself."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path

import pytest
from helpers.models import tiny_model
from helpers.paths import RECIPES, ROOT
from omegaconf import OmegaConf

from align.config import yaml_files
from align.config.docstrings import format_part
from align.config.find import find_recipe
from align.config.recipes import load
from align.config.schema import Recipe
from align.inspect.explain import explain
from align.inspect.headers import header
from align.tasks.countdown import countdown_problem
from align.telemetry import plots
from align.train import train

METHODS = sorted((RECIPES / "methods").glob("*.yaml"))
HEADINGS = {"Paper", "Deviations", "Expected", "Oracle"}
COMMON = (
    "steps=2",
    "model.recipe=null",
    "model.path=start",
    "batch.prompts=4",
    "sampling.max_tokens=12",
    "workers.backend=local",
    "workers.rollout=1",
    "evaluation.every=-1",
)

PARITY = """
def parity(prompt, response):
    return float(len(response) % 2)
"""
"""A reward of half of the answers of a random model, which solves no problem."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with what the headers say to make before: pairs, a teacher and a second warm start."""
    folder = tmp_path_factory.mktemp("methods")
    for seed, name in enumerate(("start", "runs/countdown_grpo/model", "runs/countdown_sft_1/model")):
        tiny_model(folder / name, seed=seed, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    rng, rows = random.Random(0), []
    for _ in range(8):
        prompt, _, answer = countdown_problem(rng, False)
        rows.append({"prompt": prompt, "chosen": answer, "rejected": answer[: rng.randrange(1, len(answer))]})
    (folder / "parity.py").write_text(PARITY)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny(recipe: Path) -> Recipe:
    """The recipe at a size that takes a moment. Call it in `folder`: paths of a recipe start at the working directory."""
    node, own = yaml_files.load(recipe), []
    if "samples" in node["batch"]:
        own.append("batch.samples=2")
    if isinstance(node.get("reward"), str):
        own.append("reward=./parity.py:parity")
    else:
        own.append("sampling.max_tokens=24")  # as long as the demonstrations
    if "path" not in node["task"]:
        own.append("task.size=16")
    return load(recipe, [*COMMON, *own])


@pytest.mark.parametrize("recipe", METHODS, ids=lambda path: path.stem)
def test_two_steps(recipe: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plots, "draw", lambda metrics, picture: picture)  # two thirds of the time, and the same for every recipe
    train(tiny(recipe), tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1]
    for name, value in ((name, value) for step in steps for name, value in step.items() if isinstance(value, int | float)):
        assert math.isfinite(value), name
    assert all(step["grad/norm"] > 0 for step in steps)


@pytest.mark.parametrize("recipe", METHODS, ids=lambda path: path.stem)
def test_it_explains_its_own_objective(recipe: Path):
    made = load(recipe)
    text = explain(made, width=400)
    assert "its formula is not stated" not in text
    for name, regularizer in made.regularizers.items():
        assert f"regularizer {name}\n" in text
        assert all(format_part(part) in text for part in (regularizer.divergence, regularizer.reference, regularizer.weighting))
    assert all(format_part(part) in text for part in (*made.shapings.values(), *made.algorithm.parts().values()))
    base = OmegaConf.to_container(OmegaConf.load(recipe))["base"]
    assert objective(text) != objective(explained(find_recipe(base, recipe.parent).resolve()))


@cache
def explained(recipe: Path) -> str:
    return explain(load(recipe), width=400)


def objective(text: str) -> str:
    """The parts of an explanation that say what is optimised: those before the sizes."""
    return text.partition("\nbatch\n")[0]


@pytest.mark.parametrize("recipe", METHODS, ids=lambda path: path.stem)
def test_its_header_says_where_it_comes_from(recipe: Path):
    says = header(recipe)
    assert says.title and HEADINGS <= says.facts.keys() <= HEADINGS | {"Before"}
    assert (ROOT / says.facts["Oracle"]).is_file()
    assert "measured" in says.facts["Expected"]
