"""Losses of demonstrations in the learner: a second reading of the head, and log-probs of a teacher from the data or from a reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from align.config import recipes
from align.errors import RecipeError, UserError
from align.experience.examples import Examples
from align.experience.packing import pack
from align.experience.prepare import prepare_batch
from align.learner.learner import Learner
from align.run.state import RunState
from align.types import Episode, TokenBatch

ROWS = [("1+1=", "2"), ("2+2=", "4+0"), ("3*3=", "9")]
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("demonstrations") / "model")


def rows(folder: Path, *known: object) -> str:
    """A file of `ROWS`; the first of them have these `teacher_logp`."""
    lines = [{"prompt": prompt, "answer": answer} for prompt, answer in ROWS]
    for line, column in zip(lines, known, strict=False):
        line["teacher_logp"] = column
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / "rows.jsonl")


def node(model: Path, path: str, likelihood: object, **changes: object) -> dict:
    return {
        "steps": 4,
        "task": {"name": "jsonl", "path": path},
        "algorithm": {"name": "sft", "likelihood": likelihood},
        "batch": {"prompts": len(ROWS)},
        "model": {"path": str(model)},
        "sampling": {"max_tokens": 8, "temperature": TEMPERATURE},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
    } | changes


def measured(model: Path, made: dict) -> tuple[float, TokenBatch]:
    """The loss of the first batch, and the batch."""
    recipe = recipes.build(made)
    examples = Examples(recipe.task, tiny_tokenizer(), len(ROWS), recipe.seed)
    examples.demand_demonstrations(recipe.algorithm.row_fields)
    batch, learner = pack(examples.demonstrations(0), None), Learner(recipe, str(model))
    batch = prepare_batch(recipe, learner.compute_logprobs(TokenBatch(**{**vars(batch), "betas": RunState(recipe).betas(0)})))
    return learner.measure(batch)["loss/policy"].mean, batch


def logp(model: Path, batch: TokenBatch, temperature: float) -> Tensor:
    """Of the demonstrated tokens, by transformers."""
    logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(batch.input_ids).logits
    return torch.log_softmax(logits / temperature, -1)[batch.seq_ids, batch.columns - 1].gather(-1, batch.tokens[:, None])[:, 0].detach()


@pytest.mark.parametrize(("lam", "margin"), [(0.5, 0.0), (0.5, 0.3), (1.0, 0.3)])
def test_ldr_kl_reads_the_head_at_its_own_temperature(model: Path, tmp_path: Path, lam: float, margin: float):
    loss, batch = measured(model, node(model, rows(tmp_path), {"name": "ldr_kl", "lam": lam, "margin": margin}))
    r = logp(model, batch, lam * TEMPERATURE).exp()
    assert loss == pytest.approx((lam * torch.log1p((1 - r) / r * torch.tensor(margin / lam).exp())).mean().item(), rel=1e-5)


def test_sel_of_log_probs_that_the_data_bring(model: Path, tmp_path: Path):
    known = [[-0.1, -2.0], [-0.5, -1.0, -1.5, -3.0], [0.0, -4]]
    loss, batch = measured(model, node(model, rows(tmp_path, *known), "sel"))
    by_length = {len(column): column for column in known[1:]}
    order = [known[("2", "4+0", "9").index(_text(batch, i))] for i in range(len(ROWS))]
    assert by_length.keys() == {2, 4}
    teacher = torch.tensor([x for column in order for x in column])
    assert torch.equal(batch.teacher_logp, teacher)
    assert loss == pytest.approx((0.5 * (logp(model, batch, TEMPERATURE) - teacher) ** 2).mean().item(), rel=1e-5)


def _text(batch: TokenBatch, sequence: int) -> str:
    text = tiny_tokenizer().decode(batch.tokens[batch.seq_ids == sequence], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def test_sel_of_a_teacher(model: Path, tmp_path: Path):
    teacher = tiny_model(tmp_path / "teacher", seed=1)
    kd = {"estimator": "exact", "reference": {"name": "teacher", "path": str(teacher)}, "coefficient": 0.0}
    loss, batch = measured(model, node(model, rows(tmp_path), {"name": "sel", "teacher": "kd"}, regularizers={"kd": kd}))
    apart = logp(model, batch, TEMPERATURE) - logp(teacher, batch, TEMPERATURE)
    assert loss == pytest.approx((0.5 * apart**2).mean().item(), rel=1e-4)


def test_a_teacher_that_no_regularizer_has_is_refused(model: Path):
    with pytest.raises(RecipeError, match="teacher: kd names no regularizer with a reference: add one of this name") as refused:
        recipes.build(node(model, "rows.jsonl", {"name": "sel", "teacher": "kd"}))
    assert refused.value.where == "algorithm.likelihood"


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ([[-1.0, -1.0]], r"rows.jsonl, line 2 has no field 'teacher_logp', which the likelihood reads"),
        ([[-1.0, -1.0], [-1.0] * 3, [-1.0] * 2], r"line 2: teacher_logp has 3 numbers, and the answer has 4 tokens, its end"),
        ([[-1.0, -1.0], "-1", [-1.0] * 2], r"line 2: teacher_logp has no list but '-1'"),
        ([[-1.0, 0.5], [-1.0] * 4, [-1.0] * 2], r"line 1: teacher_logp holds 0.5, which is no log-prob"),
        ([[-1.0, None], [-1.0] * 4, [-1.0] * 2], r"line 1: teacher_logp holds None, which is no log-prob"),
    ],
)
def test_rows_whose_log_probs_do_not_fit_are_named(tmp_path: Path, known: list, says: str):
    task = recipes.build(node(Path("nowhere"), rows(tmp_path, *known), "sel")).task
    with pytest.raises(UserError, match=says):
        Examples(task, tiny_tokenizer(), 3, 0).demand_demonstrations({"teacher_logp"})


def test_answers_that_an_engine_draws_have_none(tmp_path: Path):
    """A row's log-probs are of its own answer, not of the policy's."""
    task = recipes.build(node(Path("nowhere"), rows(tmp_path, [-1.0, -1.0], [-1.0] * 4, [-1.0] * 2), "sel")).task
    groups = Examples(task, tiny_tokenizer(), 3, 0).demonstrations(0)
    assert pack(groups, None).teacher_logp is not None
    drawn = [
        replace(g, episodes=(Episode.single_turn(e.trained_ids, e.text, logp=np.zeros(e.length)),)) for g in groups for e in g.episodes
    ]
    assert pack(drawn, None).teacher_logp is None
