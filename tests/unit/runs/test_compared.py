"""Two models on the same problems: differences by problem, and what `align eval` prints of them."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from helpers.models import tiny_model
from typer.testing import CliRunner

from align.cli import app
from align.config import recipes
from align.run.compared import compare
from align.run.evaluation import evaluate, measure

NAN = float("nan")


def test_a_paired_difference_with_its_interval():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=50)
    one, other = hard + rng.normal(0.3, 0.1, 50), hard + rng.normal(0, 0.1, 50)
    found = compare({"x": one}, {"x": other, "y": one})
    spread = statistics.NormalDist(statistics.mean(one - other), statistics.stdev(one - other) / 50**0.5)
    assert found.keys() == {"x"} and found["x"].problems == 50
    assert (found["x"].difference - found["x"].half_width, found["x"].difference + found["x"].half_width) == pytest.approx(
        (spread.inv_cdf(0.025), spread.inv_cdf(0.975))
    )
    assert found["x"].half_width < 0.1  # what is common to both has cancelled


def test_problems_without_a_value_of_both_are_left_out():
    found = compare({"x": np.array([1, NAN, 0, 1])}, {"x": np.array([0, 1, NAN, 1])})["x"]
    assert (found.one, found.other, found.difference, found.problems) == (1, 0.5, 0.5, 2)


def test_one_problem_has_no_interval():
    assert compare({"x": np.array([1.0])}, {"x": np.array([0.5])})["x"].half_width is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run's folder with a recipe and a model, a second model, and held-out rows."""
    folder = tmp_path_factory.mktemp("compared")
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(1, 7)]
    for name in ("rows", "held_out"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model(folder / "run" / "model", seed=0)
    tiny_model(folder / "other", seed=1)
    node = {
        "steps": 1,
        "task": {"name": "jsonl", "path": str(folder / "rows.jsonl"), "eval_path": str(folder / "held_out.jsonl")},
        "algorithm": "grpo",
        "reward": {"name": "exact_match", "extract": "last_number"},
        "model": {"path": "x"},
        "sampling": {"max_tokens": 5},
        "evaluation": {"problems": 6, "samples": 4},
    }
    (folder / "run" / "recipe.yaml").write_text(json.dumps(node))
    recipes.load(folder / "run" / "recipe.yaml")
    return folder


def test_the_reward_of_a_recipe_is_measured_with_the_metrics_of_its_answers(folder):
    metrics = evaluate(folder / "run")
    wanted = {
        "length",
        "exact_match",
        "reward",
        "reward/answered",
        "pass@1",
        "pass@2",
        "pass@4",
        "majority@4",
        "truncated",
        "distinct_answers",
    }
    assert metrics.keys() == {f"eval/{name}" for name in wanted}
    assert metrics["eval/pass@1"] == pytest.approx(metrics["eval/reward"]) and 0 <= metrics["eval/pass@4"] <= 1
    recipe = recipes.load(folder / "run" / "recipe.yaml")
    values = measure(folder / "run", recipe).values
    assert values.keys() == metrics.keys() and all(np.mean(values[name]) == pytest.approx(metrics[name]) for name in values)
    assert evaluate(folder / "run", temperature=0.01)["eval/distinct_answers"] < metrics["eval/distinct_answers"]


def test_align_eval_against_another_model(folder):
    command = ["eval", str(folder / "run"), "--against", str(folder / "other")]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["eval/length"]
    assert found["problems"] == 6 and found["difference"] == pytest.approx(found["one"] - found["other"]) and found["half_width"] > 0
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and "95 %" in shown.output and "eval/pass@4" in shown.output


def test_a_model_against_itself_differs_in_nothing(folder):
    done = CliRunner().invoke(app, ["eval", str(folder / "run"), "--against", str(folder / "run" / "model"), "--json"])
    assert all(one["difference"] == 0 for one in json.loads(done.stdout).values())
