"""What `align eval` measures: a run, one of its checkpoints, a folder, an adapter, or a model of the Hub."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.models import tiny_model
from typer.testing import CliRunner

from align.cli import app
from align.config import recipes
from align.errors import UserError
from align.run.evaluation import evaluate
from align.run.measured_model import measured_model, recipe_of
from align.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two steps with LoRA, and its two checkpoints."""
    folder = tmp_path_factory.mktemp("measured")
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(1, 7)]
    for name in ("rows", "held_out"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model(folder / "first")
    (folder / "digits.py").write_text("def score(prompt, response):\n    return sum(c.isdigit() for c in response) / 5\n")
    node = {
        "steps": 2,
        "task": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "eval_path": str(folder / "held_out.jsonl")},
        "algorithm": "grpo",
        "reward": f"{folder / 'digits.py'}:score",
        "model": {"path": str(folder / "first"), "lora": {"rank": 2}},
        "batch": {"prompts": 2, "samples": 4},
        "sampling": {"max_tokens": 5},
        "optimizer": {"lr": 0.03},
        "workers": {"backend": "local"},
        "checkpoint": {"every": 1},
        "evaluation": {"every": 2, "problems": 6, "samples": 4},
    }
    train(recipes.build(node), folder / "run")
    return folder / "run"


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def test_the_last_checkpoint_is_the_final_model_and_an_earlier_one_is_another(run):
    final = evaluate(run)
    assert evaluate(checkpoint(run, 2)) == final
    assert evaluate(checkpoint(run, 1)) != final


def test_an_adapter_is_measured_on_its_base(run):
    assert evaluate(run / "model" / "adapter", recipe_of(run)) == pytest.approx(evaluate(run))


def test_against_a_checkpoint_on_the_command_line(run):
    done = CliRunner().invoke(app, ["eval", str(run), "--against", str(checkpoint(run, 2)), "--json"])
    assert done.exit_code == 0, done.output
    assert all(one["difference"] == 0 for one in json.loads(done.stdout).values())


def test_a_model_without_a_run_asks_for_a_recipe(run):
    model = str(run / "model")
    refused = CliRunner().invoke(app, ["eval", model])
    assert refused.exit_code == 2 and "--recipe" in refused.stderr and "Traceback" not in refused.output
    done = CliRunner().invoke(app, ["eval", model, "--recipe", str(run / "recipe.yaml"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == evaluate(run)


def test_models_that_cannot_be_measured(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    file = next((checkpoint(damaged, 1) / "learner").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    shutil.rmtree(damaged / "model")
    for model, said in {
        checkpoint(damaged, 1): f"is damaged: learner/{file.name}",
        damaged: f"{checkpoint(damaged, 2)}",
        Path("owner/there_is_none"): "owner/there_is_none: .*cannot be fetched",
        tmp_path: "holds no model",
    }.items():
        with pytest.raises(UserError, match=said):
            measured_model(model, tmp_path / "scratch")


def test_a_checkpoint_that_its_recipe_cannot_load(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "run"
    shutil.copytree(run, other)
    written = (other / "recipe.yaml").read_text()
    for change, said in {
        "rank: 4": "does not fit the recipe of its run: it has no .*lora_A",
        "rank: 2": "the warm start that the run began with is not in the cache",
    }.items():
        text = written.replace("rank: 2", change)
        if change == "rank: 2":
            text = text.replace(f"path: {run.parent / 'first'}", "path: null").replace("recipe: null", "recipe: countdown_sft", 1)
        (other / "recipe.yaml").write_text(text)
        with pytest.raises(UserError, match=said):
            measured_model(checkpoint(other, 1), tmp_path / "scratch")
