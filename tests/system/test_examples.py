"""The custom parts run as their READMEs say, by the commands a user types, in a folder that is not the repository."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import command
from helpers.paths import ROOT

EXAMPLE = ROOT / "examples" / "custom_divergence"
RECIPE = "examples/custom_divergence/recipe.yaml"


def commands(example: str) -> list[str]:
    """What the README of an example tells to type to train."""
    lines = (ROOT / "examples" / example / "README.md").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    align train ")]


COMMANDS = commands("custom_divergence")
# A random model of one layer instead of the warm start, and a reward that pays for length: any policy can learn from it.
SMALL = [
    "steps=2",
    "reward=countdown_wordy",
    "task.size=64",
    "batch.prompts=4",
    "batch.samples=4",
    "optimizer.warmup_steps=0",
    "evaluation.every=-1",
    "model.recipe=null",
    "model.config={model_type: qwen2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, "
    "intermediate_size: 32, max_position_embeddings: 64}",
]
LOCAL = ["workers.backend=local", "workers.rollout=1"]


def run(typed: str, folder: Path, *overrides: str) -> list[dict]:
    """The metrics of a README's command with these overrides, started in `folder`."""
    _, *arguments = shlex.split(typed.replace(" examples/", f" {ROOT / 'examples'}/"))
    run_dir = folder / arguments[arguments.index("--out") + 1]
    done = command.run([*arguments, *overrides], folder, folder / "output")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_readme_names_the_three_forms():
    assert [
        f"align train {RECIPE} --out runs/in_loss",
        f"align train {RECIPE} regularizers.mine.placement=reward --out runs/in_reward",
        f"align train {RECIPE} regularizers.mine.estimator=exact --out runs/exact",
    ] == COMMANDS


def test_the_divergence_knows_nothing_of_align():
    source = (EXAMPLE / "my_divergence.py").read_text()
    assert "import" not in source.split('"""', 2)[2]


@pytest.mark.parametrize("typed", COMMANDS, ids=["loss", "reward", "exact"])
def test_it_measures_the_users_divergence(typed: str, tmp_path: Path):
    # A KL of the same form, too weak to matter: near the reference D_f is f''(1)/2 * sum (log u)^2, so squared Hellinger, whose
    # f''(1) is 1/2, is half of it. What is left is of the third order: 2.4e-3 of it on these answers.
    form = [a.replace(".mine.", ".kl.") for a in shlex.split(typed) if a.startswith("regularizers")]
    first, second = run(typed, tmp_path, *SMALL, *LOCAL, *form, "regularizers.kl.coefficient=1e-6")
    assert first["loss/reg/mine"] == first["divergence/mine"] == 0.0
    assert second["divergence/mine"] > 1e-5
    assert second["divergence/mine"] == pytest.approx(second["divergence/kl"] / 2, rel=5e-3)
    per_token = second["divergence/mine"] / second["response/length"]
    assert second["loss/reg/mine"] == pytest.approx(second["beta/mine"] * per_token, rel=1e-5)


def test_the_rules_of_ones_own_act(tmp_path: Path):
    both, digits_alone = commands("custom_regularizer")
    first, second = run(both, tmp_path, *SMALL, *LOCAL)
    assert first["loss/reg/digits"] == first["divergence/digits"] == 0.0
    assert second["divergence/digits"] > 1e-5
    assert second["loss/reg/digits"] == pytest.approx(0.05 * second["divergence/digits"] / second["response/length"], rel=1e-5)
    for step in (first, second):
        # On-policy every weight is 1: the value is the share of tokens that repeat.
        assert step["repeated/repeats"] > 0.01
        assert step["loss/reg/repeats"] == pytest.approx(0.02 * step["repeated/repeats"], rel=1e-5)
        assert step["divergence/repeats"] == pytest.approx(step["repeated/repeats"] * step["response/length"], rel=1e-5)
    alone = run(digits_alone, tmp_path, *SMALL, *LOCAL)
    assert "loss/reg/repeats" not in alone[0]
    assert alone[0]["loss/policy"] == first["loss/policy"]
    # From the same batch another update: the rule reached the weights.
    assert alone[0]["grad/norm"] != first["grad/norm"]
    assert alone[1]["divergence/digits"] != second["divergence/digits"]


def test_the_coefficient_of_ones_own_steers_and_is_resumed(tmp_path: Path):
    controlled, held_closer, resumed = commands("custom_coefficient")
    run(controlled, tmp_path, *SMALL, *LOCAL)
    steps = run(resumed, tmp_path, *SMALL, *LOCAL, "steps=4")
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    error = total = 0.0
    for step in steps:
        assert step["beta/kl"] == pytest.approx(0.1 * math.exp(0.5 * error + 0.1 * total), rel=1e-9)
        error = min(max(step["divergence/kl"] / 0.5 - 1, -1.0), 1.0)
        total += error
    assert len({step["beta/kl"] for step in steps}) == 4
    closer = run(held_closer, tmp_path, *SMALL, *LOCAL, "steps=3")
    assert closer[1]["divergence/kl"] == steps[1]["divergence/kl"]
    assert closer[2]["beta/kl"] > steps[2]["beta/kl"]


def test_a_reward_in_several_files_runs_and_its_key_acts(tmp_path: Path):
    graded, strict = commands("reward_package")
    small = [word for word in SMALL if word != "reward=countdown_wordy"]
    # Random answers are near nothing: whatever is a sum at all is near.
    first, *_ = run(graded, tmp_path, *small, *LOCAL, "reward.near=1e9", "sampling.max_tokens=1")
    assert first["reward/near"] > 0.01
    assert first["reward/mean"] == pytest.approx(0.5 * first["reward/near"] + 0.5 * first["reward/right"], rel=1e-6)
    first, *_ = run(strict, tmp_path, *small, *LOCAL, "reward.near=1e9", "sampling.max_tokens=1")
    assert first["reward/mean"] == pytest.approx(0.2 * first["reward/near"] + 0.8 * first["reward/right"], rel=1e-6)


def test_the_reward_in_several_files_is_checked(tmp_path: Path):
    (line,) = (line for line in (ROOT / "examples" / "reward_package" / "README.md").read_text().splitlines() if "align check" in line)
    _, *arguments = shlex.split(line)
    done = command.run(arguments, ROOT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_loop_of_ones_own_learns_and_is_held(tmp_path: Path):
    """Its first policy is the reference, and the coefficient falls while the answers cost less than the target and rises above it."""
    example = ROOT / "examples" / "your_own_loop.py"
    assert len(example.read_text().splitlines()) <= 60
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["step", "reward", "nats/answer", "beta"]
    rows = [[float(number) for number in line.split()] for line in lines]
    assert [row[0] for row in rows] == [0, 10, 20, 30, 39]
    rewards, nats, betas = ([row[i] for row in rows] for i in (1, 2, 3))
    assert nats[0] == 0.0 and betas[0] == 0.05
    assert rewards[-1] > rewards[0] + 0.2
    assert max(nats) > 1.0 and betas[1] < betas[0] and betas[-1] > betas[1]
