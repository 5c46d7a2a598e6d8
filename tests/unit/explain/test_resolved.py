"""`align explain --resolved`, and the difference of two recipes."""

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.config import nodes
from align.config.recipes import load
from align.inspect.resolved import ABSENT, differences, to_yaml


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explain(*arguments: str):
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "140"})


def compared(first: str, second: str, *changes: str) -> dict[str, tuple[str, str]]:
    return {d.key: (d.first, d.second) for d in differences(load(first), load(second, changes))}


@pytest.mark.parametrize("name", ["countdown_grpo", "countdown_sft", "methods/srpo", "real/qwen2.5_7b_math_grpo", "methods/grpo_d"])
def test_a_resolved_recipe_is_the_same_recipe(here, name):
    result = explain("--resolved", name)
    assert result.exit_code == 0
    (here / "again.yaml").write_text(result.stdout)
    assert nodes.resolved(load("again.yaml")) == nodes.resolved(load(name))
    assert "base:" not in result.stdout and "micro_tokens:" in result.stdout


def test_texts_that_look_like_numbers_stay_texts(here):
    changes = ["task={name: jsonl, path: rows.jsonl, prompt: '1e-3', answer: 'null', eval_share: 0.1}", "optimizer.max_grad_norm=.inf"]
    recipe = load("countdown_grpo", changes)
    (here / "again.yaml").write_text(to_yaml(recipe))
    assert load("again.yaml") == recipe and recipe.task.prompt == "1e-3"


def test_overrides_and_a_part_of_the_users_own_are_in_it(here):
    (here / "mine.py").write_text(
        "class Mine:\n    '''x'''\n    scale: float = 2.0\n    def f(self, log_u): return self.scale * (log_u / 2).expm1() ** 2\n"
    )
    shown = explain("countdown_grpo", "steps=7", "regularizers.kl.divergence=./mine.py:Mine", "--resolved").stdout
    (here / "sub").mkdir()
    (here / "sub" / "again.yaml").write_text(shown)
    again = load("sub/again.yaml")
    assert again.steps == 7 and again.regularizers["kl"].divergence.scale == 2.0


def test_differences_name_the_keys_of_an_override():
    assert compared("countdown_grpo", "countdown_grpo", "batch.samples=4", "regularizers.kl.divergence={name: tsallis, q: 0.5}") == {
        "batch.samples": ("8", "4"),
        "regularizers.kl.divergence": ("reverse_kl", "tsallis"),
        "regularizers.kl.divergence.q": (ABSENT, "0.5"),
    }
    assert compared("countdown_grpo", "countdown_grpo", "regularizers.more.coefficient=0.2", "evaluation.correct=null")[
        "evaluation.correct"
    ] == ("1.0", "null")
    added = compared("countdown_grpo", "countdown_grpo", "regularizers.more.coefficient=0.2")
    assert list(added) == ["regularizers.more"] and added["regularizers.more"][0] == ABSENT
    assert "coefficient: {name: constant, value: 0.2}" in added["regularizers.more"][1]
    assert compared("countdown_grpo", "countdown_grpo") == {}


def test_two_recipes_are_compared_by_keys_and_by_objective():
    shown = explain("countdown_grpo", "countdown_unregularized").stdout
    assert "regularizers.kl" in shown and ABSENT in shown
    first, _, second = shown.partition("objective of countdown_unregularized, where it differs")
    assert "J = E Σ_t w_t [ min(ρ A, clip(ρ, 1−0.2, 1+0.2) A) − 0.1 · kl_t ]" in first.partition("objective of countdown_grpo")[2]
    assert "J = E Σ_t w_t [ min(ρ A, clip(ρ, 1−0.2, 1+0.2) A) ]" in second and "w_t" not in second.partition("]")[2]
    assert "the objective is the same" not in shown


def test_two_recipes_with_one_objective_and_two_that_are_one():
    assert "the objective is the same" in explain("countdown_grpo", "countdown_lora").stdout
    assert explain("countdown_grpo", "countdown_grpo.yaml").stdout == "countdown_grpo and countdown_grpo.yaml are the same recipe\n"


def test_overrides_change_both():
    assert "regularizers.kl.coefficient.value" in explain("countdown_grpo", "countdown_k3").stdout
    changed = explain("countdown_grpo", "countdown_k3", "regularizers.kl.coefficient=0.5").stdout
    assert "coefficient.value" not in changed and "regularizers.kl.estimator" in changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["countdown_grpo", "countdown_k3", "countdown_sft"], "give one recipe, or two to compare"),
        (["countdown_grpo", "countdown_k3", "--resolved"], "give one recipe, or two to compare"),
        (["countdown_grpo", "countdown_k4"], "there is no recipe countdown_k4; did you mean 'countdown_k3'?"),
    ],
)
def test_what_cannot_be_compared(arguments, message):
    result = explain(*arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
