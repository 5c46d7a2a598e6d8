"""The recipes of `recipes/real`: explained, and their rows read, with a tiny model of the architecture and a row of the data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.fakes import reasoning_gym
from helpers.models import tiny_model
from helpers.own_tokenizers import CHATML, byte_tokenizer
from helpers.paths import RECIPES

from align.config.recipes import load
from align.experience.examples import Examples
from align.inspect.explain import explain

FILES = sorted((RECIPES / "real").glob("*.yaml"))
ROWS = {
    "gsm8k": {"question": "1+2?", "answer": "1+2=3\n#### 3"},
    "math": {"problem": "Half of 1?", "solution": r"\boxed{\frac{1}{2}}", "level": "Level 4", "type": "Algebra"},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "Hi",
        "prompt_id": "a",
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}],
        "score_chosen": 8.0,
    },
    "trl-lib/tldr-preference": {"prompt": "POST: Hi\n\nTL;DR:", "chosen": " Hi.", "rejected": " A long post."},
    "Anthropic/hh-rlhf": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
}
"""A row in the layout of each dataset, by the name of the task or of the dataset."""

THINKING = "{% if enable_thinking %}<think>{% endif %}"
"""What the template of a model with thoughts reads."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: tiny_model(folder / kind, kind=kind) for kind in ("llama", "qwen2", "qwen3")}


def with_row(file: Path, folder: Path) -> list[str]:
    """Overrides that give the recipe a row in place of its data."""
    task = load(file).task
    if task.recipe_name == "reasoning_gym":
        return ["task.generator=sums", "task.options=null", "task.size=1"]
    (folder / "rows.jsonl").write_text(json.dumps(ROWS.get(task.recipe_name) or ROWS[task.path]) + "\n")
    return [f"task.path={folder}/rows.jsonl", "task.split=null", "task.eval_split=null"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_explained_and_its_rows_are_read(file: Path, models: dict[str, Path], tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", reasoning_gym)
    model = next((folder for kind, folder in models.items() if file.stem.startswith(kind)), models["llama"])
    recipe = load(file, [*with_row(file, tmp_path), f"model.path={model}"])
    text = explain(recipe)
    assert "learner" in text and "unknown" not in text and "J = E" in text
    tokenizer = byte_tokenizer(template=CHATML + THINKING, eos="<|im_end|>")
    longest = recipe.sampling.max_tokens if recipe.algorithm.ranks else None
    (example,) = Examples(recipe.task, tokenizer, 1, 0, longest).examples
    asked = example.messages[-1]["role"] if example.messages else "a text"
    assert asked == ("a text" if file.stem == "smollm2_sums" else "user") and (
        example.ranked if recipe.algorithm.ranks else example.fields["answer"]
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_header_says_what_it_needs_and_aims_at(file: Path):
    header = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert all(word in header for word in ("# Resources: ", "# Aims at: ", "# Not run by us"))


def test_there_are_recipes():
    assert len(FILES) >= 8
