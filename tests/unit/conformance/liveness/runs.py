"""Whole runs in this process, each once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from align.config import recipes
from align.config.schema import Recipe
from align.core.logprobs import Head
from align.learner.policy import Policy
from align.run import checkpoints
from align.run.samples import FOLDER, SampleLog
from align.train import train
from liveness.nodes import START, filled, merged, text

RANKED = {
    "steps": 3,
    "task": {"name": "preferences", "path": "{pairs}"},
    "model": {"path": "{model}"},
    "batch": {"prompts": 4},
    "sampling": {"max_tokens": 6},
    "optimizer": {"lr": 3e-2},
    "workers": {"backend": "local"},
    "evaluation": {"every": -1},
}

LINK = {"placement": "link", "coefficient": 0.1}

RUNS: dict[str, str] = {}


def updated(change: dict, places: dict[str, str], fresh: bool = False) -> Any:
    return run(change if fresh else merged(START, change), places)


def run(node: dict, places: dict[str, str]) -> str:
    """A whole run in this process: its numbers, its checkpoints, its weights, and the sizes of what it computed at a time."""
    node = filled(node, places)
    if text(node) not in RUNS:
        RUNS[text(node)] = text(_run(recipes.build(node), Path(tempfile.mkdtemp(dir=places["folder"]))))
    return RUNS[text(node)]


def _run(built: Recipe, folder: Path) -> Any:
    sizes, threads, printed = [], [], []
    hidden, logits, save = Policy.hidden, Head.logits, checkpoints.Saver.save
    kept: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Policy,
            "hidden",
            lambda self, batch, *args: (
                sizes.append([*batch.input_ids.shape, self.causal_lm.is_gradient_checkpointing]),
                hidden(self, batch, *args),
            )[1],
        )
        patch.setattr(Head, "logits", lambda self, x, *args: (sizes.append(len(x)), logits(self, x, *args))[1])
        patch.setattr(torch, "set_num_threads", threads.append)
        patch.setattr(
            checkpoints.Saver,
            "save",
            lambda self, *args: (save(self, *args), self.wait(), kept.append(sorted(p.name for p in (folder / "checkpoints").iterdir())))[
                0
            ],
        )
        lines_of = SampleLog.lines
        patch.setattr(SampleLog, "lines", lambda self, rows: (printed.append(len(found := list(lines_of(self, rows)))), found)[1])
        patch.setattr("align.telemetry.plots.draw", lambda metrics, plot: plot)
        summary = train(built, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/", "tokens/s", "sync/"))} for line in lines]
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    written = sorted(path.name for path in (folder / "writers").glob("*"))
    answers = [[path.name, pq.read_metadata(path).num_rows] for path in sorted((folder / FOLDER).glob("*"))]
    return [numbers, summary["before"], summary["after"], kept, sizes, threads, weights, written, answers, printed]
