"""Advice about precision, and that float32 products are as precise as the recipe states."""

from pathlib import Path

import pytest
import torch
from helpers.models import tiny_model
from transformers import AutoModelForCausalLM

from align.config import nodes, recipes
from align.config.schema import Model
from align.errors import RecipeError, UserError
from align.learner.model_advice import model_notes
from align.workers import open_workers
from align.workers.actors import Job


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {"float32": tiny_model(tmp_path_factory.mktemp("model"))}
    for dtype in ("bfloat16", "float16"):
        made[dtype] = tmp_path_factory.mktemp(dtype)
        AutoModelForCausalLM.from_pretrained(made["float32"], dtype=getattr(torch, dtype)).save_pretrained(made[dtype])
    return made


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.get_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("saved", "options", "on_gpu", "told"),
    [
        ("bfloat16", {}, True, True),
        ("float16", {}, True, True),
        ("float32", {}, True, False),
        ("bfloat16", {}, False, False),
        ("bfloat16", {"dtype": "bfloat16"}, True, False),
        ("bfloat16", {"tf32": True}, True, False),
    ],
)
def test_half_precision_is_proposed_where_the_saved_model_has_it(folders, saved: str, options: dict, on_gpu: bool, told: bool):
    notes = model_notes(Model(path="m", **options), str(folders[saved]), on_gpu)
    assert len(notes) == told
    assert all(note.startswith("model.dtype: float32 is about 12x slower") and f"the saved model is {saved}: " in note for note in notes)


def test_a_folder_without_a_model_has_no_advice(tmp_path: Path):
    assert model_notes(Model(path="m"), str(tmp_path), on_gpu=True) == []


def node(folder: Path | str, **options) -> dict:
    return {
        "steps": 1,
        "task": "countdown",
        "algorithm": "grpo",
        "reward": "countdown_exact",
        "model": {"path": str(folder), **options},
        "batch": {"prompts": 4, "samples": 2},
        "sampling": {"max_tokens": 4},
        "workers": {"backend": "local"},
    }


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"device": "cpu"}])
def test_tf32_that_changes_nothing_is_refused(options: dict):
    with pytest.raises(RecipeError, match=r"model: tf32 changes nothing with d"):
        recipes.build(node("m", tf32=True, **options))


@pytest.mark.parametrize(("tf32", "expected", "other"), [(True, "high", "highest"), (False, "highest", "high")])
def test_an_actor_multiplies_as_the_recipe_states(folders, precision, tf32: bool, expected: str, other: str):
    torch.set_float32_matmul_precision(other)
    built = recipes.build(node(folders["float32"], tf32=tf32))
    Job(nodes.resolved(built), {}, str(folders["float32"]), 3).recipe()
    assert precision() == expected


def test_one_process_multiplies_as_the_recipe_states(folders, precision):
    torch.set_float32_matmul_precision("high")
    open_workers(recipes.build(node(folders["float32"])), str(folders["float32"]), 3).close()
    assert precision() == "highest"


def test_tf32_without_a_gpu_is_told_by_the_learner(folders, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^model\.tf32: changes nothing: the learner computes on the CPU; delete the key"):
        open_workers(recipes.build(node(folders["float32"], tf32=True)), str(folders["float32"]), 3)
    assert precision() == "high"
