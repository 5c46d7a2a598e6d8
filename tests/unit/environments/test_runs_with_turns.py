"""Runs with an environment: what is measured, recorded and said of them, and recipes that make no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.own_tokenizers import CHATML, byte_tokenizer, saved
from helpers.paths import ROOT
from unit.environments.playing import EVERY, recipe

import align
from align.config.nodes import build_part
from align.environments import Turn
from align.errors import RecipeError, UserError
from align.inspect.explain import explain
from align.run.samples import FOLDER
from align.testing import check
from align.tools.pairs import _drawing
from align.train import train
from align.types import Prompt

KL = {"kl": {"estimator": "exact", "coefficient": 0.1}}


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory) -> Path:
    """Two steps; the environment fails for the first prompt of the task in its second turn."""
    out = tmp_path_factory.mktemp("runs") / "run"
    environment = {"name": EVERY, "pays": True, "fails": "raise", "which": "train-0"}
    evaluation = {"every": 0, "problems": 3, "samples": 2}
    built = recipe(folder, environment=environment, regularizers=KL, batch={"prompts": 8, "samples": 4}, evaluation=evaluation)
    train(replace(built, samples=replace(built.samples, every=1, prompts=8)), out)
    return out


def test_a_run_learns_from_episodes_and_counts_their_turns(run: Path):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "turns/mean" in line]
    assert len(steps) == 2
    for line in steps:
        assert line["engine/gap"] < 1e-4, "the learner's log-probs of every turn are the engine's"
        assert 1 < line["turns/mean"] <= 3 and 0 < line["turns/limited"] < 1 and line["environment/tokens"] > 0
        assert line["reward/environment"] > 0 and line["reward/mean"] > line["reward/environment"]
        assert line["reward/failed"] == line["environment/failures"]
    assert sum(line["environment/failures"] for line in steps) > 0 and steps[1]["divergence/kl"] > 0
    assert any("pass@1" in name for line in lines for name in line)


def test_the_record_shows_every_turn(run: Path):
    rows = pq.read_table(run / FOLDER).to_pylist()
    several = [row["response"] for row in rows if "\n[tool]\n" in row["response"]]
    assert several and all(text.count("[tool]") == text.count("\n[assistant]\n") for text in several)
    _, said, after = several[0].split("\n[tool]\n")[0], *several[0].split("\n[tool]\n")[1].split("\n[assistant]\n")[:2]
    assert said[:-1].isdigit() and said[-1] == "=" and isinstance(after, str)
    assert {row["split"] for row in rows} == {"training", "countdown"}
    assert any("\n[tool]\n" in row["response"] for row in rows if row["split"] == "countdown"), "held-out answers are episodes too"


def test_a_model_is_evaluated_with_the_environment(run: Path):
    assert align.evaluate(run, problems=2, samples=2)["countdown/length"] > 0


def test_explain_says_which_tokens_are_trained(folder: Path):
    text = " ".join(explain(recipe(folder, regularizers=KL), width=200).split())
    for words in (
        "Answers the n-th turn with a digit of its seed",
        "at most 3 assistant turns of 30 tokens, 90 tokens in all; a call of the environment may take 5 s",
        "the tokens of the assistant's turns, with their end tokens; those of the role tool are context alone",
        "answers of 90 tokens",
    ):
        assert words in text
    assert "assistant turns" not in explain(recipe(folder, environment=None, episode={}))


SFT = {"algorithm": "sft", "reward": None, "task": {"name": "countdown", "demonstrations": True}, "batch": {"prompts": 4}, "episode": {}}
REFUSED = {
    "demonstrations": (SFT, "environment", "sft learns from demonstrations"),
    "no environment": (
        {"environment": None, "episode": {"max_turns": 5}},
        "episode.max_turns",
        "without an environment an answer is one turn",
    ),
    "one turn": ({"episode": {"max_turns": 1}}, "episode.max_turns", "2"),
    "no room": ({"episode": {"max_tokens": 59}}, "episode.max_tokens", "no room for a second turn"),
    "nothing to score": ({"environment": None, "episode": {}, "reward": "environment"}, "reward", "there is no environment"),
    "role": ({"environment": {"name": "calculator", "role": "assistant"}}, "environment", "its role must be one of tool, user, system"),
    "too short to punish": ({"shapings": {"long": {"name": "overlong", "limit": 100, "buffer": 5}}}, "shapings.long", "the turns' 90"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_at_its_key(folder: Path, case: str):
    keys, where, says = REFUSED[case]
    with pytest.raises(RecipeError) as refused:
        recipe(folder, **keys)
    assert refused.value.where == where and says in refused.value.problem


def test_pairs_have_no_place_for_turns(folder: Path):
    with pytest.raises(UserError, match="environment: a pair has answers of one turn"):
        _drawing(recipe(folder), None)


def test_a_template_without_tools_stops_a_run_before_it_loads_a_model(tmp_path: Path):
    silent = byte_tokenizer(template=CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}+1?", "answer": str(i + 1)}) + "\n" for i in range(8)))
    built = recipe(
        saved(tmp_path / "model", silent),
        task={"name": "jsonl", "path": str(rows), "chat": True},
        reward="exact_match",
        sampling={"max_tokens": 8},
        episode={},
    )
    with pytest.raises(UserError, match="leaves out a turn of the role tool: give the environment role: user"):
        train(built, tmp_path / "run")


def test_a_model_without_the_positions_is_refused(tmp_path: Path, folder: Path):
    with pytest.raises(UserError, match=r"episode.max_tokens: a prompt of \d+ tokens and 600 more"):
        train(recipe(folder, episode={"max_tokens": 600}), tmp_path / "run")


EXAMPLE = ROOT / "examples" / "custom_environment"


def test_the_example_conforms_and_trains(folder: Path, tmp_path: Path):
    part = str(EXAMPLE / "my_environment.py:SecondTry")
    assert {f.name: f.found for f in check("environment", part) if not f.passed} == {}
    small = ["steps=2", "optimizer.warmup_steps=0", "task.size=64", "batch.prompts=4", "batch.samples=4", "evaluation.every=-1"]
    local = ["workers.backend=local", "workers.rollout=1", "model.recipe=null", f"model.path={folder}", "sampling.temperature=4"]
    train(align.load(EXAMPLE / "recipe.yaml", [*small, *local]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["environment/failures"] for line in lines if "turns/mean" in line] == [0.0, 0.0]


def test_an_expression_that_misses_is_answered_with_its_value(folder: Path):
    environment = build_part("environment", {"name": str(EXAMPLE / "my_environment.py:SecondTry"), "price": 0.5}, "environment")
    running = environment.reset(Prompt(id="0", text="", token_ids=(1,), fields={"target": 14}), 1)
    assert running.step("9-7+3") == Turn(text="=5:", reward=-0.5)
    assert running.step("9+7+3-5") == Turn(done=True) and running.step("9+") == Turn(done=True)


def test_the_page_has_a_plugin_that_conforms(tmp_path: Path):
    page = (ROOT / "docs" / "environments.md").read_text()
    (tmp_path / "countdown.py").write_text(page.split("```python\n")[1].split("```")[0])
    prompts = [Prompt(id="0", text="", token_ids=(1,), fields={"target": 14})]
    assert {f.name: f.found for f in check("environment", f"{tmp_path}/countdown.py:SecondTry", prompts=prompts) if not f.passed} == {}


@pytest.mark.parametrize("name", ["countdown_calculator_sft", "countdown_calculator"])
def test_the_recipes_of_the_calculator_run(name: str, folder: Path, tmp_path: Path):
    small = ["steps=2", "optimizer.warmup_steps=0", "batch.prompts=4", "task.size=64", "evaluation.every=-1", "workers.backend=local"]
    own = ["model.config=null"] if name.endswith("sft") else ["batch.samples=4", "workers.rollout=1", "model.recipe=null"]
    train(align.load(name, [*small, *own, f"model.path={folder}"]), tmp_path / "run")
