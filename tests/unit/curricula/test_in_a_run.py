"""A curriculum in a run: its draws, its metrics, a resumed run, and the recipes that it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import digit_run
from helpers.digit_run import lines
from safetensors.torch import load_file

from align.config import nodes, recipes
from align.config.schema import Recipe
from align.errors import RecipeError, RunStopped
from align.experience.examples import Examples, example_indices
from align.experience.weighted_draws import weighted_indices
from align.inspect.explain import explain
from align.run.changes import changes
from align.run.checkpoints import digest
from align.run.evaluation import Suites
from align.run.notes import data_notes
from align.run.state import RunState
from align.train import train
from align.vocabulary.files import load_tokenizer
from align.workers.local import LocalWorkers

PROMPTS, SAMPLES, SIZE, STEPS = 4, 2, 10, 5


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("curriculum")
    return digit_run.places(root)


def recipe(places: Path, curriculum: Any = "learnability", refill: int | None = 1, **changed: Any) -> Recipe:
    return recipes.build(digit_run.node(places, size=SIZE, refill=refill, **{"steps": STEPS, "curriculum": curriculum} | changed))


@pytest.fixture(scope="module")
def whole(places: Path) -> Iterator[tuple[Path, list[tuple[list[str], np.ndarray]]]]:
    """A run without a stop: its folder, and the prompts of each round with the rewards of their answers."""
    rounds, judge = [], LocalWorkers.compute_rewards
    with pytest.MonkeyPatch.context() as patch:

        def kept(self: LocalWorkers, groups):
            rewards = judge(self, groups)
            rounds.append(([g.prompt.id for g in groups], rewards.values.reshape(len(groups), -1)))
            return rewards

        patch.setattr(LocalWorkers, "compute_rewards", kept)
        train(recipe(places), places / "whole")
    yield places / "whole", rounds


def test_the_rounds_are_those_drawn_by_hand(places: Path, whole):
    folder, rounds = whole
    counts = [int(line["groups/rounds"]) for line in lines(folder)]
    assert sum(counts) == len(rounds) > STEPS, "the case has a second round"
    ids, visits, number = [e.id for e in recipe(places).task.examples()], {}, 0
    for line, count in zip(lines(folder), counts, strict=True):
        rates = np.array([visits.get(i, (0, 0.5))[1] for i in ids])
        weights = np.maximum(rates * (1 - rates), 0.01)
        tried = sum(i in visits for i in ids) / SIZE
        had = [visits[i][1] for asked, _ in rounds[number : number + count] for i in asked if i in visits]
        seen = rounds[number : number + count]
        for asked, _ in seen:
            assert asked == [ids[i] for i in weighted_indices(number, PROMPTS, weights, seed=0)]
            number += 1
        for asked, rewards in seen:
            for i, own in zip(asked, rewards, strict=True):
                tries, rate = visits.get(i, (0, None))
                share = (own >= 1).mean()
                visits[i] = (tries + SAMPLES, share if rate is None else (rate + share) / 2)
        assert line["curriculum/tried"] == tried and ("curriculum/pass_rate" in line) == bool(had)
        assert not had or line["curriculum/pass_rate"] == pytest.approx(np.mean(had))
    saved = json.loads((folder / "checkpoints" / f"step_{STEPS:06d}" / "driver.json").read_text())
    assert saved["pass_rates"] == {i: list(found) for i, found in visits.items()}
    assert lines(folder)[0]["curriculum/effective_prompts"] == pytest.approx(SIZE)
    assert lines(folder)[-1]["curriculum/effective_prompts"] < SIZE


def test_a_run_stopped_between_rounds_and_resumed_draws_the_same(places: Path, whole, monkeypatch):
    counts, stopped = [int(line["groups/rounds"]) for line in lines(whole[0])], places / "stopped"
    step = next(step for step in range(2, STEPS) if counts[step] > 1)
    calls, judge = iter(range(sum(counts))), LocalWorkers.compute_rewards

    def until(self: LocalWorkers, groups):
        if next(calls) == sum(counts[:step]) + 1:
            raise KeyboardInterrupt
        return judge(self, groups)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalWorkers, "compute_rewards", until)
        train(recipe(places), stopped)
    train(recipe(places), stopped, resume=True)
    assert lines(stopped) == lines(whole[0])
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (stopped, whole[0]))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_without_one_the_prompts_are_dealt_from_permutations(places: Path):
    built = recipe(places, None)
    examples = Examples(built.task, load_tokenizer(str(places / "model")), PROMPTS, built.seed)
    for number in range(2 * SIZE):
        dealt = example_indices(number, PROMPTS, SIZE, built.seed)
        assert [p.id for p in examples.prompts(number)] == [examples.examples[i].id for i in dealt]


def test_without_one_nothing_is_recorded(places: Path):
    state = RunState(recipe(places, None))
    assert state.pass_rates is None and state.state_dict()["pass_rates"] == {}
    state.load_state_dict(state.state_dict() | {"pass_rates": {"0": [2, 0.5]}})


def test_a_checkpoint_of_a_run_without_one_has_no_prompt_tried(places: Path):
    before = {key: value for key, value in RunState(recipe(places, None)).state_dict().items() if key != "pass_rates"}
    state = RunState(recipe(places))
    state.load_state_dict(before | {"step": 3})
    assert state.pass_rates is not None and state.pass_rates.before(3, ["0"])[1].tolist() == [0]


def test_which_answers_pass_counts_as_learned_from(places: Path, tmp_path: Path):
    one, other = (recipe(places, evaluation={"every": -1, "correct": correct}) for correct in (1.0, 0.5))
    (tmp_path / "recipe.yaml").write_text(json.dumps(nodes.resolved(one)))
    assert changes(tmp_path, nodes.resolved(other)) == ["evaluation.correct: 1.0 -> 0.5"]
    assert digest(nodes.resolved(one)) != digest(nodes.resolved(other))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"algorithm": "sft", "reward": None}, "sft learns from demonstrations; delete the key"),
        ({"algorithm": "reward_model", "reward": None}, "reward_model learns from rankings; delete the key"),
        ({"algorithm": "kto", "reward": None}, "kto learns from labelled answers; delete the key"),
        ({"algorithm": "distill", "reward": None}, "distill learns from its regularizers alone; delete the key"),
        ({"evaluation": {"every": 0, "correct": None}}, "no answer passes with evaluation.correct: null; set evaluation.correct to"),
    ],
    ids=["demonstrations", "rankings", "labelled answers", "distillation", "no verdict"],
)
def test_it_is_refused_without_verdicts(places: Path, changed: dict, says: str):
    batch = {"prompts": PROMPTS} | ({"samples": SAMPLES} if "evaluation" in changed else {})
    link = {"kl": {"divergence": "reverse_kl", "placement": "link", "coefficient": 0.1}} if changed.get("algorithm") == "kto" else {}
    loss = {"kl": {"divergence": "reverse_kl", "coefficient": 0.1}} if changed.get("algorithm") == "distill" else {}
    with pytest.raises(RecipeError, match=says) as refused:
        recipe(places, **changed, batch=batch, regularizers=link | loss)
    assert refused.value.where == "curriculum"


@pytest.mark.parametrize(
    ("curriculum", "steps", "says"),
    [
        ("learnability", 4, ["curriculum: the run draws 16 prompts, and the task has 10: most are met at most once"]),
        ("learnability", 5, []),
        (None, 4, []),
    ],
)
def test_too_few_visits_are_said_before_the_run(places: Path, curriculum: str | None, steps: int, says: list[str]):
    built = recipe(places, curriculum, steps=steps)
    examples = Examples(built.task, load_tokenizer(str(places / "model")), PROMPTS, built.seed)
    suites = Suites(built, load_tokenizer(str(places / "model")), 0)
    found = [note for note in data_notes(built, examples, suites) if "curriculum" in note]
    assert [note.partition(", so")[0] for note in found] == says


@pytest.mark.parametrize("memory", [1.0, -0.5])
def test_a_memory_of_a_plugin_is_below_one(places: Path, tmp_path: Path, memory: float):
    (tmp_path / "own.py").write_text(
        f'class Own:\n    """Own."""\n    memory = {memory}\n    def weights(self, passed, tried):\n        return 1.0 + tried\n'
    )
    with pytest.raises(RecipeError, match="its memory must be at least 0 and below 1"):
        recipe(places, f"{tmp_path / 'own.py'}:Own")


def test_an_exception_of_a_plugin_is_one_line_at_the_key(places: Path, tmp_path: Path):
    (tmp_path / "own.py").write_text(
        'class Own:\n    """Own."""\n    def weights(self, passed, tried):\n        passed[0] = 1.0\n        return 1.0 + tried\n'
    )
    with pytest.raises(RunStopped, match=r"curriculum: .*own.py:4: ValueError: assignment destination is read-only"):
        train(recipe(places, f"{tmp_path / 'own.py'}:Own"), tmp_path / "run")


def test_explain_prints_the_rule(places: Path):
    text = " ".join(explain(recipe(places, {"name": "success_gap", "least": 0.125})).split())
    assert "is proportional to max(1 − s, 0.125); without replacement in a round" in text
    assert "an answer with a reward of 1 or more (evaluation.correct)" in text
    assert "E the mean over prompts drawn by the curriculum and answers drawn by π_old" in text
    assert "is drawn next" not in explain(recipe(places, None))
