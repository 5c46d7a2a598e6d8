"""Ids beyond the model's embedding: refused before any weights are loaded, wherever they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.models import tiny_model
from helpers.own_tokenizers import byte_tokenizer, saved
from transformers import AutoTokenizer
from unit.runs.test_initial import build

from align.errors import UserError
from align.rewards.learned import Learned
from align.tasks import Example
from align.train import train
from align.vocabulary.model_folder import checked


@pytest.fixture(scope="module")
def fitting(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("fitting"), byte_tokenizer())


def test_a_tokenizer_with_more_tokens_than_rows(tmp_path: Path):
    tokenizer = byte_tokenizer(("<|endoftext|>", "<tool>", "<pad>"), pad="<pad>")
    folder = saved(tmp_path, tokenizer, rows=257, pad_token_id=256)
    says = r"the tokenizer has 259 tokens and the model has embeddings for 257: <tool> is 257, <pad> is 258\. .*resize_token_embeddings"
    with pytest.raises(UserError, match=says):
        checked(str(folder), AutoTokenizer.from_pretrained(folder))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (folder / "model.safetensors").unlink()  # the refusal comes before it is read
    recipe = build({"path": str(folder)}, steps=1, batch={"prompts": 1}, task={"name": "jsonl", "path": str(tmp_path / "rows.jsonl")})
    with pytest.raises(UserError, match=says):
        train(recipe, tmp_path / "run")


def test_a_token_added_to_the_tokenizer_alone(fitting: Path, tmp_path: Path):
    shutil.copytree(fitting, tmp_path / "added")
    tokenizer = AutoTokenizer.from_pretrained(fitting)
    tokenizer.add_tokens(["<turn>"])
    tokenizer.save_pretrained(tmp_path / "added")
    with pytest.raises(UserError, match="the tokenizer has 260 tokens and the model has embeddings for 259: <turn> is 259"):
        checked(str(tmp_path / "added"), AutoTokenizer.from_pretrained(tmp_path / "added"))


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("config.json", {"pad_token_id": 259}, "config.json: pad_token_id is 259, and the model has embeddings for 259 tokens, 0 to 258"),
        ("config.json", {"bos_token_id": 400}, "config.json: bos_token_id is 400"),
        ("config.json", {"eos_token_id": [256, 300]}, "config.json: eos_token_id is 300"),
        ("generation_config.json", {"eos_token_id": [256, 300]}, "generation_config.json: eos_token_id is 300"),
        ("generation_config.json", {"eos_token_id": -1}, "generation_config.json: eos_token_id is -1"),
    ],
)
def test_ids_of_the_configs(fitting: Path, tmp_path: Path, file: str, values: dict, says: str):
    folder = shutil.copytree(fitting, tmp_path / "model")
    old = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(old | values))
    with pytest.raises(UserError, match=says):
        checked(str(folder), AutoTokenizer.from_pretrained(folder))


def test_a_token_that_only_the_tokenizers_class_adds(tmp_path: Path):
    """transformers gives this tokenizer an <|endoftext|> that its files do not have: it counts where a row has it."""
    folder = str(tiny_model(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 27
    assert checked(folder, tokenizer, [Example(id="1", text="12", answer="3")]) == []
    for row in (Example(id="1", text="1<|endoftext|>"), Example(id="1", text="1", answer="<|endoftext|>")):
        with pytest.raises(UserError, match=r"example 1: has the token <\|endoftext\|>, which is 26 .* embeddings for 26 tokens"):
            checked(folder, tokenizer, [row])


def test_a_folder_that_cannot_be_written_back_is_refused(fitting: Path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(fitting)

    def no_room(*args):
        raise ValueError("no vocabulary file")

    monkeypatch.setattr(tokenizer, "save_pretrained", no_room)
    with pytest.raises(UserError, match=r"cannot write its tokenizer back, .*: no vocabulary file"):
        checked(str(fitting), tokenizer)


def test_a_reward_model_with_fewer_rows_than_tokens(tmp_path: Path):
    folder = saved(tmp_path, byte_tokenizer(), rows=257, scorer=True, pad_token_id=0, eos_token_id=256)
    with pytest.raises(UserError, match="the tokenizer has 259 tokens and the model has embeddings for 257"):
        Learned(path=str(folder)).start()
