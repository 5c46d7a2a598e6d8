"""Opens the folder of a run for a new leg: finds the checkpoint to continue from, and moves damaged ones out of the way."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from align.config import nodes, yaml_files
from align.config.schema import Recipe
from align.disk import writing
from align.run import checkpoints, folder
from align.run.changes import changes
from align.run.history import Leg


class OpenedRun(NamedTuple):
    """A folder that is ready for a leg."""

    first_step: int
    notes: list[str]
    leg: Leg


def open_run(run_dir: Path, recipe: Recipe, resume: bool) -> OpenedRun:
    """Prepare a folder that this process has locked, and write `recipe.yaml` and the line of the leg.

    Raises: UserError if there is nothing to resume; WriteFailed.
    """
    node = nodes.resolved(recipe)
    if resume:
        found = checkpoints.newest(run_dir, recipe)
        first, changed = found.step, changes(run_dir, node)
        notes = checkpoints.set_aside(run_dir, found)
        if found.recipe != checkpoints.digest(yaml_files.load(run_dir / "recipe.yaml")):
            notes.append(f"checkpoint step_{first:06d} was saved with another recipe than the folder's recipe.yaml")
    else:
        first, changed = 0, []
        with writing(run_dir):
            notes = folder.set_aside(run_dir)
    leg = Leg(run_dir, recipe, first, resume, changed)
    if resume:
        if leg.before is not None and leg.before.get("end") is None:
            notes.append(f"the leg that started at {leg.before.get('start')} has no end: it was killed, or its machine died")
        notes += [f"resuming with {change}" for change in (*changed, *leg.changed())]
    with writing(run_dir):
        OmegaConf.save(OmegaConf.create(node), run_dir / "recipe.yaml")
    return OpenedRun(first, notes, leg)
