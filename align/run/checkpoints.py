"""Checkpoints of a run: the whole state, written atomically; the newest few are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.config import nodes, yaml_files
from align.config.schema import Optimizer, Recipe
from align.disk import writing
from align.errors import UserError
from align.learner.optimizer import schedule
from align.run.state import RunState
from align.workers import LearnerLike


def _folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step:06d}"


def _steps(run_dir: Path) -> list[int]:
    return sorted(int(p.parent.name.removeprefix("step_")) for p in (run_dir / "checkpoints").glob("step_*/driver.json"))


def newest_step(run_dir: Path, recipe: Recipe) -> int:
    """The step at which to continue. Raises UserError if there is nothing to resume or nothing left to do."""
    steps = _steps(run_dir)
    if not steps:
        raise UserError(
            f"--resume: {run_dir} holds no complete checkpoint, so there is nothing to continue: give the --out of the run, or start "
            "without --resume in a new folder"
        )
    finished = (run_dir / "summary.json").is_file()  # a run killed after its last step must still export and evaluate
    if steps[-1] > recipe.steps or (steps[-1] == recipe.steps and finished):
        raise UserError(f"--resume: the run in {run_dir} has already done {steps[-1]} of {recipe.steps} steps; raise steps to go on")
    return steps[-1]


def kept(run_dir: Path, command: str) -> str | None:
    """What a run that stopped has kept, and the command that continues it; None without a checkpoint."""
    steps = _steps(run_dir)
    return f"Kept: {_folder(run_dir, steps[-1])} and the metrics. To go on: {command}" if steps else None


def changes(run_dir: Path, node: dict[str, Any]) -> list[str]:
    """`KEY: OLD -> NEW` for each key that differs between the folder's recipe and the resolved recipe `node`."""
    recipe = yaml_files.load(run_dir / "recipe.yaml")
    before, now = (nodes.learned_from(Recipe, r) for r in (recipe, node))
    return [
        *_changes(before, now, ""),
        *_stretched(recipe, node, max(_steps(run_dir), default=recipe["steps"])),
    ]  # a finished run may keep none


def _stretched(old: dict[str, Any], new: dict[str, Any], step: int) -> Iterator[str]:
    """Tells that another number of steps moves the learning rate of a schedule, which reaches its end at the last step."""
    rates = []
    for recipe in (old, new):
        optimizer = nodes.build(Optimizer, recipe.get("optimizer", {}), "optimizer")
        rates.append(optimizer.lr * schedule(optimizer, min(step, recipe["steps"] - 1), recipe["steps"]))
    if old["steps"] != new["steps"] and rates[0] != rates[1]:
        kind = new["optimizer"]["schedule"]
        yield f"steps: {old['steps']} -> {new['steps']}, which stretches the {kind} schedule: lr is {rates[1]:.3g} now, not {rates[0]:.3g}"


def _changes(old: Any, new: Any, where: str) -> Iterator[str]:
    # With another name the keys belong to another part.
    if isinstance(old, dict) and isinstance(new, dict) and old.get("name") == new.get("name"):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif old != new:
        yield f"{where}: {_written(old)} -> {_written(new)}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def save(run_dir: Path, state: RunState, learner: LearnerLike, keep: int) -> None:
    """Save the state of a run and keep the newest `keep` checkpoints.

    It is written to a temporary folder and renamed, so a killed run leaves no partial checkpoint. Raises WriteFailed if it cannot be
    written; the checkpoints before it stay.
    """
    final = _folder(run_dir, state.step)
    if final.exists():
        return
    unfinished = final.with_name(f"unfinished_{state.step:06d}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with writing(f"the checkpoint {final}"):
            unfinished.mkdir(parents=True)
            state.save(unfinished, learner)
            unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in _steps(run_dir)[:-keep]:
        shutil.rmtree(_folder(run_dir, old))


def load(run_dir: Path, step: int, state: RunState, learner: LearnerLike) -> None:
    """Restore the state after `step` steps. Raises UserError if the checkpoint is of another recipe."""
    state.load(_folder(run_dir, step), learner)
