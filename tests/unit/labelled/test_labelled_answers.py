"""Labelled answers: how rows and pairs become them, what stands beside them for KTO, and whole runs of two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.models import tiny_model, tiny_tokenizer

from align.algorithms.bco import Bco
from align.algorithms.kto import Kto
from align.config import recipes
from align.config.nodes import build_part
from align.errors import RecipeError, UserError
from align.experience.examples import Examples
from align.experience.packing import pack
from align.inspect.explain import explain
from align.tasks.labelled import Labelled
from align.train import train

ROWS = [
    {"prompt": "1=", "completion": "2+3", "label": True},
    {"prompt": "1=", "completion": "9", "label": False},
    {"prompt": "4=", "completion": "7", "label": 1},
    {"prompt": "5=", "completion": "8-", "label": 0},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def written(folder: Path, rows: list[dict]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_become_labelled_answers(tmp_path: Path):
    task = Labelled(path=written(tmp_path, ROWS))
    assert [(e.text, e.ranked, e.labels, e.answer) for e in task.examples()][:2] == [
        ("1=", ("2+3",), (True,), "2+3"),
        ("1=", ("9",), (False,), None),
    ]
    groups = Examples(task, tiny_tokenizer(), 4, 0, algorithm=Kto()).labelled(0)
    batch = pack(groups, None)
    assert batch.labels is not None and sorted(batch.labels.tolist()) == [-1] * 4 + [0, 0, 1, 1]
    for i, g in enumerate(groups):
        own, other = g.episodes
        before = [groups[i - k] for k in range(1, 4) if groups[i - k].prompt.token_ids != g.prompt.token_ids]
        assert own.label is not None and other.label is None
        assert other.trained_ids.tolist() == before[0].episodes[0].trained_ids.tolist()


def test_kto_of_a_single_prompt_is_refused_and_a_step_of_one_has_no_answers_to_others(tmp_path: Path):
    same = [{"prompt": "1=", "completion": str(i), "label": i % 2 == 0} for i in range(3)]
    task = Labelled(path=written(tmp_path, same))
    with pytest.raises(RecipeError, match=r"every example has the same prompt, and the algorithm estimates .*: add examples of another"):
        Examples(task, tiny_tokenizer(), 2, 0, algorithm=Kto())
    assert len(Examples(task, tiny_tokenizer(), 2, 0, algorithm=Bco()).labelled(0)) == 2
    examples = Examples(Labelled(path=written(tmp_path, [*same, ROWS[2]])), tiny_tokenizer(), 2, 0, algorithm=Kto())
    found = {len({g.prompt.text for g in groups}): [len(g.episodes) for g in groups] for groups in map(examples.labelled, range(2))}
    assert found == {1: [1, 1], 2: [2, 2]}


def test_pairs_are_read_as_labelled_answers_and_mismatched_across_prompts(tmp_path: Path):
    rows = [{"prompt": f"{i}=", "chosen": f"{i}+{i}", "rejected": f"{i}-"} for i in range(3)]
    task = build_part("task", {"name": "preferences", "path": written(tmp_path, rows)}, "task")
    groups = Examples(task, tiny_tokenizer(), 3, 0, algorithm=Kto()).labelled(0)
    for g in groups:
        assert [e.label for e in g.episodes] == [True, False, None, None]
        assert all(e.text[0] == g.prompt.text[0] for e in g.episodes[:2]) and all(e.text[0] != g.prompt.text[0] for e in g.episodes[2:])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": "1=", "completion": "2", "label": "yes"},
            'line 1: label must be true for a good answer or false for a bad one, not "yes"',
        ),
        ({"prompt": "1=", "completion": "2", "label": 0.5}, "line 1: label must be true"),
        ({"prompt": "1=", "completion": ["2"], "label": True}, r"line 1: completion\[0\] must be a turn"),
        ({"prompt": "1=", "completion": "2"}, "line 1: has no field 'label'; name the one that holds the label"),
        ({"prompt": "1=", "completion": " ", "label": True}, "line 1: completion is empty"),
    ],
)
def test_rows_that_are_no_labelled_answers(row: dict, says: str, tmp_path: Path):
    with pytest.raises(UserError, match=says):
        Labelled(path=written(tmp_path, [row])).examples()


def test_demonstrations_are_no_labelled_answers(tmp_path: Path):
    task = build_part("task", {"name": "countdown", "size": 4, "demonstrations": True}, "task")
    with pytest.raises(UserError, match="has no labelled answer; labelled answers are"):
        Examples(task, tiny_tokenizer(), 2, 0, algorithm=Bco()).labelled(0)


def test_the_longest_sequence_may_be_a_prompt_with_the_answer_to_another(tmp_path: Path):
    rows = [{"prompt": "1" * 9, "completion": "2", "label": True}, {"prompt": "4=", "completion": "7777777", "label": False}]
    task = Labelled(path=written(tmp_path, rows))
    found = [Examples(task, tiny_tokenizer(), 2, 0, algorithm=algorithm).longest_answered()[0] for algorithm in (Kto(), Bco())]
    assert found == [9 + 8, 11]


def node(model: Path, path: str, **changes) -> dict:
    return {
        "steps": 2,
        "task": {"name": "labelled", "path": path},
        "algorithm": "kto",
        "batch": {"prompts": 4},
        "model": {"path": str(model)},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
        "regularizers": {"kl": {"placement": "link", "coefficient": 0.5}},
    } | changes


@pytest.mark.parametrize(
    "algorithm", [{"name": "kto", "epochs": 2, "minibatches": 2}, {"name": "bco", "loss_weighting": {"name": "kl_dro"}}], ids=["kto", "bco"]
)
def test_two_steps(algorithm: dict, model: Path, tmp_path: Path):
    recipe = recipes.build(node(model, written(tmp_path, ROWS), algorithm=algorithm))
    train(recipe, tmp_path / "run")
    first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert first["labelled/baseline"] == pytest.approx(0.0, abs=1e-5)
    assert second["labelled/good"] > second["labelled/bad"] and second["labelled/good"] > 0


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"batch": {"prompts": 1}}, "algorithm", "compares with answers to other prompts of the batch: batch.prompts must be 2 or more"),
        ({"regularizers": {}}, "regularizers", "kto needs exactly one regularizer with placement: link"),
        (
            {"regularizers": {"kl": {"placement": "link", "coefficient": "beta_dpo"}}},
            "regularizers.kl.coefficient",
            "compares ranked answers, and kto learns from single ones",
        ),
        (
            {"regularizers": {"kl": {"placement": "link", "coefficient": 0.1, "weighting": "sampo"}}},
            "regularizers.kl.weighting",
            "labelled answers are single",
        ),
    ],
)
def test_what_labelled_answers_do_not_allow(changes: dict, where: str, says: str, model: Path):
    with pytest.raises(RecipeError, match=says) as error:
        recipes.build(node(model, "nowhere", **changes))
    assert error.value.where == where


def test_explain_shows_both_losses(model: Path):
    text = explain(recipes.build(node(model, "nowhere", algorithm={"name": "kto", "bad_weight": 0.5})))
    assert "J = E_r [ σ(β (s − z)) for good answers, 0.5 σ(β (z − s)) for bad ones ]" in text
    assert "the mean over labelled answers" in text
