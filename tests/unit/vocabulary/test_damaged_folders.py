"""A model's folder that transformers reads in part or not at all: one line with key and reason, no traceback and no random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.own_tokenizers import byte_tokenizer, saved
from safetensors.torch import load_file, save_file

from align.config.schema import Model
from align.errors import UserError
from align.learner.model_loading import load_causal_lm, load_reward_model
from align.vocabulary.files import load_config, load_tokenizer

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("whole"), byte_tokenizer())


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    how(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path) -> None:
    load_causal_lm(str(folder), Model(path=str(folder)), "model.path")


@pytest.mark.parametrize("text", ["{bad", '{"model_type": "nosuch"}', ""])
def test_a_config_that_is_not_read(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.path: .*holds no model that transformers loads: "):
        load_config(str(folder))


@pytest.mark.parametrize("text", ["{bad", "{}", json.dumps({"model": {"type": "None"}})])
def test_a_tokenizer_that_is_not_read(folder: Path, text: str):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.path: .*holds no tokenizer"):
        load_tokenizer(str(folder))


def test_weights_that_end_too_early(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="holds no causal language model that transformers loads: "):
        load(folder)


def test_weights_of_another_shape(folder: Path):
    change(folder, lambda t: t.update({UP: torch.ones(40, 32)}))
    with pytest.raises(UserError, match="holds no causal language model that transformers loads: "):
        load(folder)


def test_a_missing_tensor_is_not_drawn_at_random(folder: Path):
    change(folder, lambda t: t.pop(UP))
    with pytest.raises(UserError, match=rf"the weights in .* lack {UP}, which transformers would draw at random"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [UP, "model.embed_tokens.weight", "model.norm.weight"])
def test_numbers_that_are_not_finite(folder: Path, name: str, value: float):
    change(folder, lambda t: t[name].view(-1)[7:8].fill_(value))
    with pytest.raises(UserError, match=f"NaN or infinite in {name}"):
        load(folder)
    with pytest.raises(UserError, match=f"NaN or infinite in {name}"):
        load_reward_model(str(folder), Model(path=str(folder)), "model.path", fresh=True)
