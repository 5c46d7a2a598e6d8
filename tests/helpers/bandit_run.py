"""A run of four steps in this process that takes a fraction of a second: one prompt, answers of one token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config import recipes
from align.train import train
from helpers.models import tiny_model
from helpers.paths import PLUGINS

PLUGIN = PLUGINS / "systematic.py"


def node(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "steps": 4,
        "task": f"{PLUGIN}:OnePrompt",
        "reward": f"{PLUGIN}:ByToken",
        "engine": f"{PLUGIN}:Systematic",
        "algorithm": "grpo",
        "model": {"path": str(model)},
        "batch": {"prompts": 1, "samples": 4},
        "sampling": {"max_tokens": 1},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
    } | changes


def start(folder: Path, resume: bool = False, **changes: Any) -> dict[str, Any]:
    """Train into `folder/run`, from a model that is made once in `folder/start`."""
    model = folder / "start"
    if not model.is_dir():
        tiny_model(model)
    return train(recipes.build(node(model, **changes)), folder / "run", resume=resume)


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "run" / "checkpoints").glob("*"))
