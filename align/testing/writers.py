"""Checks of a writer: it accepts every number, continues when a run resumes, and does not affect the run."""

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

from align.config.frozen import checked_instance
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
"""Step 2 is missing, as after a step without samples."""


def check_writer(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a writer, given by name, as a class with keys, or built but not open.

    The checks open it and write a few steps; a writer that uploads metrics uploads these too.
    """
    return KIT.run(part, keys)


@contextmanager
def opened(w: Writer, folder: str, done: int = 0, recipe: Any = RECIPE) -> Iterator[RunningWriter]:
    writer = checked_instance(w, w.open(Path(folder), "runs/checked", recipe, done), RunningWriter)
    try:
        yield writer
    finally:
        writer.close(finished=True)


def states() -> list[Any]:
    """States of the process's three random generators."""
    return [random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()]


@KIT.check("any number", "accept NaN, infinities, repeated steps and missing steps")
def _numbers(w: Writer) -> str | None:
    """every metric of every step can be written; a writer without metrics can be closed"""
    with tempfile.TemporaryDirectory() as folder, opened(w, folder) as writer:
        for step, metrics in ROWS:
            writer.write(step, dict(metrics))
    with tempfile.TemporaryDirectory() as folder, opened(w, folder):
        return None


@KIT.check("goes on", "keep the data for a resumed run in `folder`, and read it when `open` is called with `done` above 0")
def _resumes(w: Writer) -> str | None:
    """another process can open the same folder and write the same steps again"""
    with tempfile.TemporaryDirectory() as folder:
        for done in (0, 1):
            with opened(w, folder, done) as writer:
                for step, metrics in ROWS:
                    if step > done or not done:
                        writer.write(step, dict(metrics))
    return None


@KIT.check("leaves what it is given alone", "copy the metrics and the recipe before changing them: other writers get the same objects")
def _untouched(w: Writer) -> str | None:
    """metrics and recipe do not change"""
    recipe, metrics = copy.deepcopy(RECIPE), {"loss": 0.5, "entropy": 1.0}
    with tempfile.TemporaryDirectory() as folder, opened(w, folder, recipe=recipe) as writer:
        writer.write(1, metrics)
    return None if (recipe, metrics) == (RECIPE, {"loss": 0.5, "entropy": 1.0}) else "it changes them"


@KIT.check("no random numbers", "draw names and ids from your own generator (`secrets`, `uuid`)")
def _no_randomness(w: Writer) -> str | None:
    """a run with it draws the same numbers as one without"""
    before = states()
    with tempfile.TemporaryDirectory() as folder, opened(w, folder) as writer:
        writer.write(1, {"loss": 0.5})
    return None if states() == before else "it draws from the process's random numbers"
