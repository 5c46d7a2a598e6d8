"""What a writer must be: it takes every number there is, goes on where a run goes on, and changes nothing of the run."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from align.config.frozen import running
from align.testing.findings import Finding, Kit
from align.writers import RunningWriter, Writer

KIT = Kit("writer")
RECIPE = {
    "steps": 4,
    "task": {"name": "countdown", "size": 8},
    "model": {"path": "somewhere", "recipe": None},
    "optimizer": {"betas": [0.9, 0.99]},
}
ROWS = (
    (0, {"eval/countdown/pass@1": 0.25}),
    (1, {"loss/policy": -0.5, "kl/ref/k3": float("nan"), "grad/norm": float("inf"), "tokens/s": 1e6}),
    (1, {"eval/countdown/pass@1": 0.5, "eval/kl/initial": 1e-9}),
    (3, {"loss/policy": float("-inf")}),
)
"""Step 2 had nothing to learn from."""


def check_writer(part: Any, /, **keys: Any) -> list[Finding]:
    """Every check of a writer: its name, its class with keys, or one that is built and not open.

    It is opened and gets a few steps: a writer that sends them anywhere sends these too.
    """
    return KIT.run(part, keys)


@contextmanager
def opened(w: Writer, folder: str, done: int = 0, recipe: Any = RECIPE) -> Iterator[RunningWriter]:
    writer = running(w, w.open(Path(folder), "runs/checked", recipe, done), RunningWriter)
    try:
        yield writer
    finally:
        writer.close(finished=True)


def states() -> list[Any]:
    """Of the process's three generators of random numbers."""
    return [random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()]


@KIT.check("any number", "take NaN, infinities, a step that comes twice and one that never comes")
def _numbers(w: Writer) -> str | None:
    """every metric of every step can be written; what was opened and told nothing can be closed"""
    with tempfile.TemporaryDirectory() as folder, opened(w, folder) as writer:
        for step, metrics in ROWS:
            writer.write(step, dict(metrics))
    with tempfile.TemporaryDirectory() as folder, opened(w, folder):
        return None


@KIT.check("goes on", "keep what a resumed run needs in `folder`, and find it there when `open` is called with `done` above 0")
def _resumes(w: Writer) -> str | None:
    """another process opens the same folder and writes steps that were written before"""
    with tempfile.TemporaryDirectory() as folder:
        for done in (0, 1):
            with opened(w, folder, done) as writer:
                for step, metrics in ROWS:
                    if step > done or not done:
                        writer.write(step, dict(metrics))
    return None


@KIT.check("leaves what it is given alone", "copy the metrics and the recipe before changing them: other writers get the same")
def _untouched(w: Writer) -> str | None:
    """metrics and recipe are as they were"""
    recipe, metrics = copy.deepcopy(RECIPE), {"loss": 0.5, "entropy": 1.0}
    with tempfile.TemporaryDirectory() as folder, opened(w, folder, recipe=recipe) as writer:
        writer.write(1, metrics)
    return None if (recipe, metrics) == (RECIPE, {"loss": 0.5, "entropy": 1.0}) else "it changes them"


@KIT.check("no random numbers", "draw names and ids from a generator of your own (`secrets`, `uuid`)")
def _no_randomness(w: Writer) -> str | None:
    """a run with it draws the same numbers as one without"""
    before = states()
    with tempfile.TemporaryDirectory() as folder, opened(w, folder) as writer:
        writer.write(1, {"loss": 0.5})
    return None if states() == before else "it draws from the process's random numbers"
