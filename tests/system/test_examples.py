"""The custom divergence runs as its README says, by the command a user types, in a folder that is not the repository."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_divergence"
RECIPE = "examples/custom_divergence/recipe.yaml"
COMMANDS = [line.strip() for line in (EXAMPLE / "README.md").read_text().splitlines() if line.startswith("    align train ")]
# A random model of one layer instead of the warm start, and a reward that pays for length: any policy can learn from it.
SMALL = [
    "steps=2", "reward=wordy", "task.size=64", "batch.prompts=4", "batch.samples=4", "optimizer.warmup_steps=0", "evaluation.every=-1",
    "model.recipe=null",
    "model.config={model_type: qwen2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, "
    "intermediate_size: 32, max_position_embeddings: 64}",
]
LOCAL = ["workers.backend=local", "workers.rollout=1"]


def run(command: str, folder: Path, *overrides: str) -> list[dict]:
    """The metrics of a README's command with these overrides, started in `folder`."""
    program, *arguments = shlex.split(command.replace(RECIPE, str(EXAMPLE / "recipe.yaml")))
    done = subprocess.run([Path(sys.executable).with_name(program), *arguments, *overrides], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / arguments[-1] / "metrics.jsonl").read_text().splitlines()]


def test_the_readme_names_the_three_forms():
    assert [
        f"align train {RECIPE} --out runs/in_loss",
        f"align train {RECIPE} regularizers.mine.placement=reward --out runs/in_reward",
        f"align train {RECIPE} regularizers.mine.estimator=exact --out runs/exact",
    ] == COMMANDS


def test_the_divergence_knows_nothing_of_align():
    source = (EXAMPLE / "my_divergence.py").read_text()
    assert "import" not in source.split('"""', 2)[2]


@pytest.mark.parametrize("command", COMMANDS, ids=["loss", "reward", "exact"])
def test_it_measures_the_users_divergence(command: str, tmp_path: Path):
    # A KL of the same form, too weak to matter: near the reference D_f is f''(1)/2 * sum (log u)^2, so squared Hellinger, whose
    # f''(1) is 1/2, is half of it. What is left is of the third order.
    form = [a.replace(".mine.", ".kl.") for a in shlex.split(command) if a.startswith("regularizers")]
    first, second = run(command, tmp_path, *SMALL, *LOCAL, *form, "regularizers.kl.coefficient=1e-6")
    assert first["loss/reg/mine"] == first["divergence/mine"] == 0.0
    assert second["divergence/mine"] > 1e-5
    assert second["divergence/mine"] == pytest.approx(second["divergence/kl"] / 2, rel=2e-3)
    per_token = second["divergence/mine"] / second["response/length"]
    assert second["loss/reg/mine"] == pytest.approx(second["beta/mine"] * per_token, rel=1e-5)


def test_it_runs_on_ray(tmp_path: Path):
    """Rollouts, learner and rewards in processes of their own: the class reaches them as text."""
    first, second = run(COMMANDS[0], tmp_path, *SMALL, "workers.rollout=1", "workers.cpus=0.1")
    assert first["loss/reg/mine"] == 0.0
    assert second["loss/reg/mine"] > 1e-7
