"""Rows and answers beyond a model's positions are refused before anything is loaded, with both numbers."""

import json
import sys
from pathlib import Path

import pytest
from helpers.models import tiny_model
from transformers import AutoConfig

from align.config import recipes
from align.errors import UserError
from align.run.positions import positions_of
from align.train import train

ROWS = {
    "jsonl": [{"prompt": "1+2", "answer": "3"}, {"prompt": "1+2+3", "answer": "6" * 9}],
    "preferences": [{"prompt": "1+2", "chosen": "3", "rejected": "4"}, {"prompt": "1+2+3", "chosen": "6" * 9, "rejected": "7"}],
}
LINK = {"kl": {"placement": "link", "coefficient": 0.1}}
RECIPES = {
    "sft": ({"name": "jsonl"}, {"algorithm": "sft"}),
    "dpo": ({"name": "preferences"}, {"algorithm": "dpo", "regularizers": LINK}),
    "reward_model": ({"name": "preferences"}, {"algorithm": "reward_model"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A GPT-2, whose configuration calls positions n_positions."""
    return tiny_model(tmp_path_factory.mktemp("model"), kind="gpt2")


def no_workers(*args, **options) -> None:
    raise UserError("workers")


def run(folder: Path, tmp_path: Path, positions: int, monkeypatch, task: dict, **changes) -> None:
    """A run up to its workers, with this many positions in the configuration."""
    config = json.loads((folder / "config.json").read_text()) | {"n_positions": positions}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(sys.modules[train.__module__], "open_workers", no_workers)
    base = {"steps": 1, "model": {"path": str(folder)}, "batch": {"prompts": 2}, "workers": {"backend": "local"}}
    built = recipes.build({**base, "evaluation": {"every": -1}, "sampling": {"max_tokens": 10}, "task": task, **changes})
    train(built, tmp_path / "run")


@pytest.mark.parametrize("algorithm", RECIPES)
def test_a_row_beyond_the_positions_is_refused(folder: Path, tmp_path: Path, algorithm: str, monkeypatch):
    """The longest row is 5 + 9 tokens and the end token: it fits 15 positions, and not 14."""
    task, changes = RECIPES[algorithm]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task["name"]]))
    task = {**task, "path": str(data)}
    with pytest.raises(UserError, match=r"^workers$"):
        run(folder, tmp_path, 15, monkeypatch, task, **changes)
    said = rf"^task: {data}.*2: prompt and answer have 15 tokens, its end token included, but the model has 14 positions; shorten"
    with pytest.raises(UserError, match=said):
        run(folder, tmp_path, 14, monkeypatch, task, **changes)


def test_an_answer_beyond_the_positions_is_refused(folder: Path, tmp_path: Path, monkeypatch):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "1+2", "answer": "3"}\n')
    sampled = {"task": {"name": "jsonl", "path": str(data)}, "algorithm": "grpo", "reward": "match"}
    with pytest.raises(UserError, match=r"^workers$"):
        run(folder, tmp_path, 13, monkeypatch, **sampled)
    with pytest.raises(
        UserError, match=r"^sampling\.max_tokens: a prompt of 3 tokens and 10 more are 13, but the model has 12 positions; lower"
    ):
        run(folder, tmp_path, 12, monkeypatch, **sampled)


@pytest.mark.parametrize(
    ("kind", "keys", "positions"),
    [
        ("gpt2", {"n_positions": 7}, 7),
        ("mpt", {"max_seq_len": 7}, 7),
        ("whisper", {"max_target_positions": 7}, 7),
        ("opt", {"max_position_embeddings": 7}, 7),
        ("gemma3", {"text_config": {"max_position_embeddings": 7}}, 7),
        ("mamba", {}, None),
        ("bloom", {}, None),
    ],
)
def test_positions_have_several_names(kind: str, keys: dict, positions: int | None):
    assert positions_of(AutoConfig.for_model(kind, **keys)) == positions
