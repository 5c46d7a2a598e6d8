"""The recipes that are compared, as data, and how one of them is run in one tree."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

STEPS = 4
LIMIT = 300
"""Seconds that one run may take."""
TOLD = 1500
"""Characters of what a failed run said."""
ANSWERS = {"prompts": 6, "samples": 4, "micro_tokens": 256}
"""Several micro-batches a step."""
COUNTDOWN = {"name": "countdown", "size": 48}
PENALTY = {"divergence": "reverse_kl", "estimator": "exact", "coefficient": 0.1}
PAIRS = {"name": "preferences", "path": "pairs.jsonl", "eval_path": "held_out_pairs.jsonl"}

COMMON: dict[str, Any] = {
    "steps": STEPS,
    "seed": 0,
    "task": COUNTDOWN,
    "model": {"path": "start"},
    "sampling": {"max_tokens": 16},
    "optimizer": {"lr": 3e-3, "warmup_steps": 1, "schedule": "linear", "final_fraction": 0.1, "weight_decay": 0.01},
    "workers": {"backend": "local"},
    "evaluation": {"every": 2, "problems": 4, "samples": 2},
}
"""Keys of every recipe, unless it has its own; `model` is merged. Paths start at the folder that `write_inputs` fills."""

RECIPES: dict[str, dict[str, Any]] = {
    "exact_kl": {"reward": "countdown_wordy", "batch": ANSWERS, "algorithm": {"name": "grpo"}, "regularizers": {"kl": PENALTY}},
    "sampled_in_reward": {
        "reward": "countdown_wordy",
        "batch": ANSWERS,
        "algorithm": {"name": "grpo"},
        "regularizers": {
            "kl": {"divergence": "reverse_kl", "estimator": "k1", "placement": "reward", "credit": "summed", "coefficient": 0.05}
        },
    },
    "lora": {
        "reward": "countdown_wordy",
        "batch": ANSWERS,
        "algorithm": {"name": "grpo"},
        "model": {"lora": {"rank": 4}},
        "regularizers": {"kl": PENALTY},
    },
    "ppo": {
        "reward": "countdown_wordy",
        "batch": ANSWERS,
        "algorithm": {"name": "ppo", "critic": {"name": "separate", "lr": 2e-3}, "epochs": 2, "minibatches": 2},
        "regularizers": {"kl": {"divergence": "reverse_kl", "placement": "reward", "credit": "summed", "coefficient": 0.05}},
    },
    "dpo": {
        "batch": {"prompts": 6},
        "task": {**PAIRS, "held_out": "countdown"},
        "algorithm": {"name": "dpo"},
        "regularizers": {"kl": {"divergence": "reverse_kl", "placement": "link", "coefficient": 0.5}},
    },
    "reward_model": {"batch": {"prompts": 6}, "task": PAIRS, "algorithm": {"name": "reward_model"}, "evaluation": {"every": 2}},
    "sft": {
        "batch": {"prompts": 12, "micro_tokens": 256},
        "task": {**COUNTDOWN, "demonstrations": True},
        "algorithm": {"name": "sft"},
        "regularizers": {"kl": PENALTY},
    },
    "adaptive_ema": {
        "reward": "countdown_wordy",
        "batch": ANSWERS,
        "algorithm": {"name": "grpo", "epochs": 2, "minibatches": 2},
        "regularizers": {
            "kl": {
                **PENALTY,
                "reference": {"name": "ema", "rate": 0.3},
                "coefficient": {"name": "adaptive", "target": 0.5, "initial": 0.1, "horizon": 100},
            }
        },
    },
}


class Tree(NamedTuple):
    """Sources of align and its kernels."""

    name: str
    """BASE or HEAD."""
    folder: Path
    overrides: Sequence[str] = ()
    """`[RECIPE:]KEY=VALUE`, as the command takes them; without a VALUE the key is left out of the recipe."""


class Run(NamedTuple):
    folder: Path
    seconds: float
    failure: str | None
    """The end of what a run said that did not end well."""


def environment(tree: Path) -> dict[str, str]:
    """That of a run in a tree: on the CPU, without anything left to chance, its own sources before installed ones."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "kernels")]),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }


def check_sources(tree: Tree) -> None:
    """Raises ValueError where a run in the tree would import align or its kernels from elsewhere."""
    find = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('align', 'align_kernels')), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", find], env=environment(tree.folder), cwd=tree.folder, capture_output=True, text=True)
    origins = found.stdout.split("\n")[:2]
    if found.returncode or not all(Path(o).resolve().is_relative_to(tree.folder.resolve()) for o in origins):
        raise ValueError(f"{tree.name}: the sources would come from {found.stdout or found.stderr}, not from {tree.folder}")


def write_inputs(folder: Path) -> None:
    """What both trees start from: a random model with its tokenizer, and preferences of countdown answers."""
    # Both need transformers, which takes seconds to import.
    from helpers.models import tiny_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tiny_model(folder / "start")
    rng = random.Random(0)
    for name, rows in (("pairs.jsonl", 24), ("held_out_pairs.jsonl", 6)):
        (folder / name).write_text("".join(json.dumps(_pair(rng)) + "\n" for _ in range(rows)))


def _pair(rng: random.Random) -> dict[str, str]:
    """A right answer, and one with a sign turned or a digit lost."""
    numbers = sorted(rng.choices(range(1, 10), k=4))
    target = sum(numbers)
    right = "+".join(map(str, rng.sample(numbers, 4)))
    wrong = right.replace("+", "-", 1) if rng.random() < 0.5 else right[:-2]
    return {"prompt": f"{','.join(map(str, numbers))}={target}:", "chosen": right, "rejected": wrong}


def written(name: str, inputs: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe for one tree, and what is left of the tree's overrides for its command line.

    Raises: ValueError for an override that is not of the form, or of a recipe that is not there.
    """
    own = RECIPES[name]
    recipe = deepcopy(COMMON | own | {"model": COMMON["model"] | own.get("model", {})})
    for section, key in (("model", "path"), ("task", "path"), ("task", "eval_path")):
        if key in recipe[section]:
            recipe[section][key] = str(inputs / recipe[section][key])
    passed = []
    for override in overrides:
        of, key, value = parsed(override)
        if of in (None, name) and value:
            passed.append(f"{key}={value}")
        elif of in (None, name):
            _leave_out(recipe, key.split("."))
    return recipe, passed


def parsed(override: str) -> tuple[str | None, str, str]:
    """Recipe, key and value of `[RECIPE:]KEY=VALUE`. Raises ValueError."""
    path, equals, value = override.partition("=")
    of, colon, key = path.rpartition(":")
    if not equals or not key or (colon and of not in RECIPES):
        raise ValueError(f"{override!r} is not [RECIPE:]KEY=VALUE with a recipe out of {', '.join(RECIPES)}")
    return of or None, key, value


def _leave_out(node: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        node = node.get(key, {})
    node.pop(keys[-1], None)


def run(name: str, tree: Tree, inputs: Path, folder: Path) -> Run:
    """One recipe in one tree, by the command line in a process of its own."""
    folder.mkdir(parents=True)
    recipe, overrides = written(name, inputs, tree.overrides)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    # The summary repeats the folder of the run, which is therefore called the same in both trees.
    command = [sys.executable, "-m", "align.cli", "train", "recipe.yaml", *overrides, "--out", "run"]
    log, began = folder / "log.txt", time.monotonic()
    with log.open("w") as output:
        try:
            end = subprocess.run(
                command,
                cwd=folder,
                stdout=output,
                stderr=output,
                timeout=LIMIT,
                env=environment(tree.folder) | {"ALIGN_CACHE": str(folder / "cache")},
            ).returncode
        except subprocess.TimeoutExpired:
            end = f"a stop after {LIMIT} seconds"
    failure = f"{tree.name} ended with {end}:\n{log.read_text()[-TOLD:]}" if end else None
    return Run(folder / "run", time.monotonic() - began, failure)
