"""Small runs that are rewarded for a first character that is a digit, so some groups have a signal and others have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.models import tiny_model

TIMES = ("time", "memory", "tokens/s", "sync/seconds")
"""Beginnings of the metrics that differ from run to run."""


def places(root: Path) -> Path:
    """The folder with the model and the reward of `node`."""
    tiny_model(root / "model")
    (root / "digit.py").write_text("def score(prompt, response):\n    return float(response[:1].isdigit())\n")
    return root


def node(places: Path, *, size: int, refill: int | None, **changes: Any) -> dict[str, Any]:
    """A recipe of two answers to each of four prompts, rewarded with 0 or 1."""
    return {
        "task": {"name": "countdown", "size": size},
        "algorithm": "grpo",
        "reward": f"{places / 'digit.py'}:score",
        "model": {"path": str(places / "model")},
        "batch": {"prompts": 4, "samples": 2, "refill": refill},
        "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-2},
        "workers": {"backend": "local"},
        "evaluation": {"every": -1},
    } | changes


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics of a run that its seed decides."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in found]
