"""The tasks of published data: gsm8k, math, reasoning_gym, and several tasks at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fakes import reasoning_gym

from align.config.nodes import build_part
from align.errors import RecipeError, UserError
from align.rewards.reasoning_gym import ReasoningGym as Verifier
from align.tasks.gsm8k import Gsm8k
from align.tasks.jsonl import Jsonl
from align.tasks.math import Math
from align.tasks.mix import Mix
from align.tasks.reasoning_gym import ReasoningGym
from align.types import Episode, Group, Prompt

WORDS = {"question": "Ann has 3 pens and 1,000 more. How many?", "answer": "3+1000 = <<3+1000=1003>>1003\n#### 1,003"}
PROBLEM = {"problem": "Half of $1$?", "solution": r"It is $\boxed{\frac{1}{2}}$.", "level": "Level 1", "type": "Algebra"}


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answered(example, *texts: str) -> Group:
    prompt = Prompt(id=example.id, text=example.text, token_ids=(1,), fields=example.fields)
    return Group(prompt=prompt, episodes=tuple(Episode.single_turn(np.zeros(4, np.int32), t) for t in texts))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


# GSM8K and MATH


def test_gsm8k_from_a_folder_as_on_the_hub(tmp_path):
    folder = tmp_path / "gsm8k"
    for split in ("train", "test"):
        write(folder / "main" / f"{split}.jsonl", WORDS | {"question": f"{split}?"})
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: main\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in ("train", "test")
    ) + "---\n")  # fmt: skip
    task = Gsm8k(str(folder))
    (example,) = task.examples()
    assert example.messages[-1] == {"role": "user", "content": "train?"} and "####" in example.messages[0]["content"]
    assert (example.fields["answer"], example.answer) == ("1,003", WORDS["answer"])
    assert {name: [e.messages[-1]["content"] for e in held] for name, held in task.suites(9).items()} == {"gsm8k": ["test?"]}
    judged = task.judge("gsm8k", [answered(example, "so\n#### 1003", "#### 1,003", "1003", "#### 1")])
    assert judged == {"length": 4.0, "exact_match": 0.5}


def test_gsm8k_from_a_plain_folder_and_from_a_file(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "plain" / f"{split}.jsonl", WORDS | {"question": f"{split}?"})
    assert [e.text.splitlines()[-1] for e in Gsm8k(str(tmp_path / "plain")).suites(9)["gsm8k"]] == ["user: test?"]
    train, test = (tmp_path / "plain" / f"{split}.jsonl" for split in ("train", "test"))
    assert Gsm8k(str(train), chat=False, system=None).examples()[0].text == "train?"
    assert Gsm8k(str(train)).suites(9) == {}
    assert list(Gsm8k(str(train), eval_path=str(test)).suites(9)) == ["gsm8k"]


def test_math_takes_the_last_box_and_filters_by_level(tmp_path):
    path = write(tmp_path / "math.jsonl", PROBLEM, PROBLEM | {"problem": "harder", "level": "Level 5"})
    task = Math(str(path), filter={"level": ["Level 3", "Level 5"]})
    (example,) = task.examples()
    assert example.messages[-1]["content"] == "harder" and example.fields["answer"] == r"\frac{1}{2}"
    assert "boxed" in example.messages[0]["content"]
    assert task.judge("math", [answered(example, r"\boxed{\frac{1}{2}}", "0.5")])["exact_match"] == 0.5


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_dataset_that_cannot_be_fetched_is_one_line(name, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        UserError,
        match=r"cannot be fetched from the Hugging Face Hub: Couldn't reach the Hub; .*the local folder or file: task\.path=FOLDER",
    ) as error:
        build_part("task", name, "task").examples()
    assert "\n" not in str(error.value)


# Several tasks


def sources(tmp_path: Path, **keys) -> dict:
    a = write(tmp_path / "a.jsonl", *({"prompt": f"a{i}", "answer": "1"} for i in range(4)))
    b, held = write(tmp_path / "b.jsonl", {"prompt": "b0", "answer": "2"}), write(tmp_path / "held.jsonl", {"prompt": "h"})
    return {"a": Jsonl(str(a)), "b": Jsonl(str(b), eval_path=str(held))} | keys


def test_a_mix_has_every_example_once_and_names_its_source(tmp_path):
    task = Mix(sources=sources(tmp_path))
    assert [(e.id, e.text, e.fields["source"]) for e in task.examples()] == [
        *((f"a/line-{i + 1}", f"a{i}", "a") for i in range(4)),
        ("b/line-1", "b0", "b"),
    ]
    assert {name: [e.id for e in held] for name, held in task.suites(3).items()} == {"b/eval": ["b/line-1"]}
    assert task.judge("b/eval", [answered(task.examples()[4], "2", "3")])["exact_match"] == 0.5
    assert task.notes() == ["task: an epoch has 4 from 4 examples of a, 1 from 1 examples of b"]


def test_weights_repeat_the_smaller_source(tmp_path):
    task = Mix(sources=sources(tmp_path), weights={"a": 2, "b": 1})
    assert [e.id for e in task.examples()][4:] == ["b/line-1", "b#2/line-1"]
    assert [e.text for e in task.examples()][4:] == ["b0", "b0"]
    more = Mix(sources=sources(tmp_path), weights={"a": 0.5, "b": 1}).examples()
    assert (sum(e.fields["source"] == "a" for e in more), len(more)) == (4, 12)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"sources": {}}, "sources must name at least one task"),
        ({"weights": {"a": 1}}, "weights must have the names of the sources, a, b, not a"),
        ({"weights": {"a": 1, "b": 0}}, "weights: b must be above 0"),
        ({"too_long": "cut"}, "too_long must be stop, drop or truncate_left"),
    ],
)
def test_mixes_that_are_none(tmp_path, keys, says):
    with pytest.raises(ValueError, match=says):
        Mix(**({"sources": sources(tmp_path)} | keys))


def test_a_mix_has_the_limits_of_all_and_plain_names(tmp_path):
    with pytest.raises(ValueError, match=r"sources\.c: max_prompt_tokens and too_long change nothing inside a mix"):
        Mix(sources=sources(tmp_path, c=Jsonl("x", too_long="drop")))
    with pytest.raises(ValueError, match="'a/b' has a slash"):
        Mix(sources={"a/b": Jsonl("x")})


# Generators


@pytest.fixture
def gym(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", reasoning_gym)


def test_a_generators_problems_and_its_verifier(gym):
    task = ReasoningGym("sums", options={"first": 5}, size=3, seed=1)
    first = task.examples()[0]
    assert first.messages[-1]["content"] == "1+5=" and first.answer == "<answer>6</answer>"
    prompt = Prompt(id=first.id, text=first.text, token_ids=(1,), fields=first.fields)
    assert set(Verifier().required_fields) <= prompt.fields.keys()
    given = ["<answer>6</answer>", "<answer>1</answer> or <answer> 6 </answer>", "<answer>7</answer>", "6"]
    assert [Verifier().score(prompt, text) for text in given] == [1.0, 1.0, 0.01, 0.0]
    held = task.suites(2)["sums"]
    assert [e.messages[-1]["content"] for e in held] == ["4+5=", "5+5="]
    assert task.judge("sums", [answered(held[0], "<answer>9</answer>", "9")]) == {"length": 4.0, "score": 0.5}


def test_what_reasoning_gym_does_not_have(gym):
    with pytest.raises(RecipeError, match=r"task\.generator: reasoning_gym has no generator 'sum'; did you mean 'sums'"):
        ReasoningGym("sum").examples()
    with pytest.raises(RecipeError, match=r"task\.options: sums does not take them"):
        ReasoningGym("sums", options={"last": 5}).examples()
    with pytest.raises(ValueError, match="judges the prompts of the task reasoning_gym only"):
        Verifier().score(Prompt(id="1", text="x", token_ids=(1,)), "2")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 'align\[reasoning-gym\]'"):
        ReasoningGym("unheard").examples()


def test_weights_that_repeat_a_source_without_measure_are_refused(tmp_path):
    rows = Jsonl(str(write(tmp_path / "a.jsonl", {"prompt": "1"}, {"prompt": "2"})))
    with pytest.raises(RecipeError, match=r"task\.weights: b with 2 examples would be repeated 1,000,000,000 times"):
        Mix(sources={"a": rows, "b": rows}, weights={"a": 1.0, "b": 1e9}).examples()
    assert len(Mix(sources={"a": rows, "b": rows}, weights={"a": 1.0, "b": 200.0}).examples()) == 402
