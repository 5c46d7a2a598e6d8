"""Mutated recipes, rows and folders of runs give a result or one message: no traceback, no raw control character.

ALIGN_FUZZ=N multiplies the numbers: `ALIGN_FUZZ=4 python -m pytest tests/unit/interface/test_fuzz.py` tries 1,200 recipes, 800 rows, 64
folders, and prints how each ended.
"""

import json
import os
import shutil
from collections import Counter
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer.main
import typer.testing
from helpers import mistakes, mutations
from helpers.mistakes import align

from align.errors import UserError

TIMES = float(os.environ.get("ALIGN_FUZZ", "1"))
RECIPES, ROWS, FOLDERS = round(300 * TIMES), round(200 * TIMES), round(16 * TIMES)
NODES: list[dict[str, Any]] = [
    mistakes.RECIPE
    | {
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.99], "schedule": "cosine", "warmup_steps": 1},
        "regularizers": {"kl": {"divergence": {"name": "tsallis", "q": 0.5}, "estimator": "sampled", "coefficient": {"name": "linear",
                         "start": 0.1, "end": 0.2, "steps": 2}, "reference": {"name": "ema", "rate": 0.1}}},
        "shapings": {"long": {"name": "overlong", "limit": 4, "buffer": 2}},
        "writers": {"board": "tensorboard"},
        "checkpoint": {"every": 1, "keep": 1},
        "reward_limits": {"seconds": 1.0},
    },
    mistakes.RECIPE
    | {
        "algorithm": {"name": "grpo", "surrogate": {"name": "clipped", "clip_low": 0.2, "clip_high": 0.3}, "reduction": "token"},
        "model": {"config": {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "num_key_value_heads": 1}},
        "task": "countdown",
        "reward": "countdown_exact",
        "head": {"backend": "torch"},
    },
]  # fmt: skip
GOOD = [
    {"prompt": "1+1=", "answer": "2", "id": "a", "n": [1, {"x": None}]},
    {"prompt": "2+2=", "answer": "4"},
    {"prompt": "3=", "answer": "3"},
]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    before, folder = Path.cwd(), mistakes.prepare(tmp_path_factory.mktemp("fuzz"))
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        # The runner builds all commands from their functions at every call, which takes as long as the command.
        patch.setattr(typer.testing, "_get_command", lru_cache(typer.main.get_command))
        yield folder
    os.chdir(before)


def one_message(found, what: bytes) -> None:
    assert found.exception is None or isinstance(found.exception, SystemExit), (what, repr(found.exception))
    assert "Traceback" not in found.output, (what, found.output)
    assert all(c in "\n\t" or c.isprintable() or c == " " for c in found.output), (what, found.output)
    assert found.exit_code == 0 or (found.exit_code == 2 and found.stderr.strip()), (what, found.output)


def summary(capsys, what: str, ends: Counter[str]) -> None:
    with capsys.disabled():
        print(f"\n{sum(ends.values())} {what}: {', '.join(f'{count} {end}' for end, count in ends.most_common())}")


def test_mutated_recipes(capsys):
    random = Random(0)
    codes = Counter[int]()
    for i in range(RECIPES):
        written = json.dumps(NODES[i]).encode() if i < len(NODES) else mutations.recipe(random, random.choice(NODES))
        Path("mutated.yaml").write_bytes(written)
        found = align("explain", "mutated.yaml", "--no-check")
        one_message(found, written)
        codes[found.exit_code] += 1
        assert found.exit_code == 0 or i >= len(NODES), found.output
    summary(capsys, "mutated recipes", Counter({"explained": codes[0], "refused": codes[2]}))
    assert min(codes[0], codes[2]) > RECIPES / 20


class Reached(UserError):
    """The rows were read, and the models would be loaded."""


def test_mutated_rows(monkeypatch, capsys):
    def reached(*_: object, **__: object) -> None:
        raise Reached("the rows were read")

    monkeypatch.setattr(import_module("align.train"), "open_workers", reached)
    random = Random(0)
    outcomes = Counter[str]()
    for _ in range(ROWS):
        written = mutations.rows(random, GOOD)
        Path("rows.jsonl").write_bytes(written)
        found = align("train", "small.yaml", "--no-check", "--out", "fuzzed")
        one_message(found, written)
        outcomes["read" if "the rows were read" in found.stderr else "refused"] += 1
    summary(capsys, "files with mutated rows", outcomes)
    assert outcomes.keys() == {"read", "refused"}


COMMANDS = {
    "train": ["train", "run.yaml", "steps=3", "--no-check", "--out", "damaged", "--resume"],
    "eval": ["eval", "damaged", "--problems", "1", "--samples", "1"],
    "explain": ["explain", "damaged/recipe.yaml", "--no-check"],
}


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    """The folder of a run with two checkpoints and held-out rows."""
    Path("trained.jsonl").write_text(mistakes.ROWS)
    Path("held.jsonl").write_text('{"prompt": "3+3=", "answer": "6"}\n')
    task = {"name": "jsonl", "path": str(folder / "trained.jsonl"), "eval_path": str(folder / "held.jsonl")}
    mistakes.write(folder, "run", task=task, checkpoint={"every": 1}, model={"path": str(folder / "model")})
    found = align("train", "run.yaml", "--no-check", "--out", "finished")
    assert found.exit_code == 0, found.output
    return folder / "finished"


def test_damaged_folders(finished: Path, capsys):
    random, outcomes = Random(0), Counter[str]()
    for _ in range(FOLDERS):
        shutil.rmtree("damaged", ignore_errors=True)
        shutil.copytree(finished, "damaged")
        what = mutations.damage(random, Path("damaged"))
        for name in ("explain", "eval", "train"):
            found = align(*COMMANDS[name])
            one_message(found, f"{name}: {what}".encode())
            outcomes[f"{name} {'worked' if found.exit_code == 0 else 'refused'}"] += 1
    summary(capsys, "commands on damaged folders", outcomes)
    assert {"eval worked", "eval refused", "train worked"} <= outcomes.keys()
