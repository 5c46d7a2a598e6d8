"""`evaluation.sampling`: the distribution of held-out answers, and that it changes nothing that is learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers.models import tiny_model
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.config.schema import Recipe
from align.engines import Drawing, HeldOutEngine, Sampling, start_engine
from align.engines._sampler import distribution
from align.engines.scripted import Scripted
from align.engines.transformers import RunningTransformers, Transformers
from align.errors import RecipeError, UserError
from align.run.evaluation import evaluate
from align.train import train
from align.types import Prompt

PROMPTS = [Prompt(id=str(i), text="", token_ids=ids) for i, ids in enumerate([(3, 4), (5, 6, 7), (8,)])]
GREEDY = Drawing(temperature=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "model"
    tiny_model(folder)
    return folder


def test_top_p_keeps_the_fewest_most_probable_tokens_that_reach_it():
    logits = torch.tensor([[0.1, 0.5, 0.05, 0.35]]).log()
    for top_p, kept in ((0.4, [1]), (0.6, [1, 3]), (0.849, [1, 3]), (0.9, [0, 1, 3]), (0.96, [0, 1, 2, 3])):
        p = distribution(logits, Drawing(temperature=1.0, top_p=top_p)).exp()[0]
        assert p.nonzero().flatten().tolist() == kept
        expected = torch.zeros(4).index_copy(0, torch.tensor(kept), logits.exp()[0, kept])
        torch.testing.assert_close(p, expected / expected.sum())


def test_top_p_counts_after_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    assert distribution(logits, Drawing(temperature=0.2, top_p=0.9)).exp().count_nonzero() == 1
    assert distribution(logits, Drawing(temperature=5.0, top_p=0.9)).exp().count_nonzero() == 3


def test_at_temperature_0_the_first_of_the_largest_logits_has_all_probability():
    found = distribution(torch.tensor([[1.0, 3.0, 3.0], [2.0, -1.0, -torch.inf]]), GREEDY)
    assert found.exp().tolist() == [[0, 1, 0], [1, 0, 0]]


def test_without_either_it_is_the_softmax_bit_for_bit():
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(distribution(logits, Drawing(temperature=0.7)), torch.log_softmax(logits / 0.7, -1))


@torch.no_grad()
def test_an_engine_draws_either_way_by_request(model: Path):
    engine = Transformers().start(str(model), Sampling(max_tokens=6), 4)
    first = engine.generate(PROMPTS, 2, [1, 2, 3])
    greedy = engine.generate_held_out(PROMPTS, 1, [1, 2, 3], GREEDY)
    nucleus = engine.generate_held_out(PROMPTS, 4, [1, 2, 3], Drawing(temperature=1.0, top_p=0.3))
    again = engine.generate(PROMPTS, 2, [1, 2, 3])
    tokens = [[e.trained_ids.tolist() for g in groups for e in g.episodes] for groups in (first, again)]
    assert tokens[0] == tokens[1], "the answers that are learned from are as without held-out ones"
    loaded = AutoModelForCausalLM.from_pretrained(model)
    below = 0
    for group, limit in (*((g, 1e-12) for g in greedy), *((g, 0.3 + 1e-5) for g in nucleus)):
        for episode in group.episodes:
            ids, start = [*group.prompt.token_ids, *episode.trained_ids.tolist()], len(group.prompt.token_ids)
            logits = engine.words.spelled.logits(loaded(torch.tensor([ids])).logits[0])[start - 1 : -1].float()
            for row, token in zip(logits.softmax(-1), ids[start:], strict=True):
                before = row[row > row[token]].sum()
                assert before < limit
                below += int(before > 0)
    assert below > 0, "the nucleus has more than the most probable token"


def recipe(model: Path, **changes: Any) -> Recipe:
    node = {
        "steps": 2,
        "task": {"name": "countdown", "size": 24},
        "algorithm": "grpo",
        "reward": "countdown_wordy",
        "model": {"path": str(model)},
        "batch": {"prompts": 4, "samples": 2},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": 1, "problems": 4, "samples": 1, "sampling": {"temperature": 0}},
    }
    return recipes.build(node | changes)


def learned(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    skipped = ("time", "memory", "tokens/s", "sync/seconds", "eval/")
    return [found for line in lines if "loss/policy" in (found := {k: v for k, v in line.items() if not k.startswith(skipped)})]


def test_a_run_evaluates_greedily_and_learns_the_same(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked, draw = [], RunningTransformers.generate_held_out
    monkeypatch.setattr(
        RunningTransformers, "generate_held_out", lambda self, *given: (asked.append((len(given[0]), given[-1])), draw(self, *given))[1]
    )
    summary = train(recipe(model), tmp_path / "greedy")
    steps = [drawing for count, drawing in asked if count == 4 and drawing != GREEDY]
    assert steps == [Drawing(temperature=1.0)] * 2 and asked[0][1] == asked[-1][1] == GREEDY
    plain = train(recipe(model, evaluation={"every": 1, "problems": 4, "samples": 1}), tmp_path / "plain")
    assert learned(tmp_path / "greedy") == learned(tmp_path / "plain") != []
    assert "kl/initial" in plain["after"] and "kl/initial" not in summary["after"]
    asked.clear()
    own = evaluate(tmp_path / "greedy")
    assert {name: own[name] for name in summary["after"]} == summary["after"], "`align eval` draws as the run did"
    assert {drawing for _, drawing in asked} == {GREEDY}
    evaluate(tmp_path / "greedy", temperature=0.5)
    assert asked[-1][1] == Drawing(temperature=0.5), "the argument comes before the recipe"
    with pytest.raises(RecipeError, match="the 3 answers to a problem are the same: set it to 1"):
        evaluate(tmp_path / "greedy", samples=3)


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"engine": {"name": "scripted", "answers": ["1"]}}, "evaluation.sampling", "draws every answer by `sampling`"),
        ({"evaluation": {"samples": 4, "sampling": {"temperature": 0}}}, "evaluation.samples", "the 4 answers to a problem are the same"),
        ({"evaluation": {"every": -1, "sampling": {"top_p": 0.9}}}, "evaluation.sampling", "every: -1 never evaluates"),
        (
            {"evaluation": {"sampling": {"temperature": 0, "top_p": 0.9}}},
            "evaluation.sampling",
            "top_p changes nothing with temperature: 0",
        ),
        ({"evaluation": {"sampling": {"top_p": 0}}}, "evaluation.sampling.top_p", "must be above 0"),
        (
            {
                "algorithm": "reward_model",
                "task": {"name": "preferences", "path": "pairs.jsonl"},
                "reward": None,
                "batch": {"prompts": 4},
                "evaluation": {"sampling": {"top_p": 0.9}},
            },
            "evaluation.sampling",
            "trains a reward model, which has no answers",
        ),
    ],
)
def test_it_is_refused_where_it_cannot_be_done(model: Path, changes: dict, where: str, says: str):
    with pytest.raises(RecipeError, match=says) as refused:
        recipe(model, **changes)
    assert refused.value.where == where


def test_a_part_that_draws_held_out_answers_starts_an_engine_that_does(model: Path):
    class Promises(HeldOutEngine):
        def start(self, model_dir, sampling, max_prompt_tokens):
            return cast("Any", Scripted(answers=("1",)).start(model_dir, sampling, max_prompt_tokens))

    with pytest.raises(UserError, match=r"Promises\.start must return an object that derives from align\.engines\.RunningHeldOutEngine"):
        start_engine(Promises(), str(model), Sampling(max_tokens=6), 4)
