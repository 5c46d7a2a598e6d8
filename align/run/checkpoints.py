"""Checkpoints of a run: the whole state with a manifest, written atomically; the newest few are kept, the newest whole one is used."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from align import manifest
from align.config import nodes
from align.config.schema import Recipe
from align.disk import writing
from align.errors import UserError
from align.learner.tensor_files import PLAN
from align.manifest import Damaged
from align.run.state import DRIVER, RunState
from align.run.versions import versions
from align.workers import LearnerLike

NEEDED = {DRIVER, f"learner/{PLAN}"}
"""Files without which a folder is no checkpoint, whatever its manifest says."""


UNFINISHED = "unfinished_"
"""Prefix of the name of a checkpoint that is being written or hashed."""


class ResumePoint(NamedTuple):
    """The checkpoint from which a run continues."""

    step: int
    recipe: str
    """`digest` of the recipe that wrote it."""
    damaged: dict[str, str]
    """Newer checkpoints that cannot be used: by the name of the folder, what is wrong with it."""


def folder_of(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step:06d}"


def steps(run_dir: Path) -> list[int]:
    """The steps of the checkpoints in the folder of a run, whole or damaged; other names (`step_best`) are not of checkpoints."""
    names = [path.name for path in (run_dir / "checkpoints").glob("step_*")]
    return sorted(step for name in names if (step := _number(name)) is not None)


def _number(name: str) -> int | None:
    found = re.fullmatch(r"step_(\d+)", name)
    return int(found[1]) if found and name == folder_of(Path(), int(found[1])).name else None


def digest(node: Mapping[str, Any]) -> str:
    """16 hex digits of a resolved recipe, without the keys that cannot change what is learned."""
    return hashlib.sha256(json.dumps(_learned(node), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _learned(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a resolved recipe that can change what is learned; with a curriculum, also which answers pass."""
    found = nodes.learned_from(Recipe, dict(node))
    return found if node.get("curriculum") is None else found | {"evaluation": {"correct": node["evaluation"]["correct"]}}


def newest(run_dir: Path, recipe: Recipe) -> ResumePoint:
    """The newest whole checkpoint. Every file of it is read, and of the newer ones as much as shows the damage.

    Raises: UserError if there is nothing to resume, nothing whole, or nothing left to do.
    """
    there = steps(run_dir)
    if not there:
        raise UserError(
            f"--resume: {run_dir} holds no checkpoint, so there is nothing to continue: give the --out of the run, or start it again "
            "without --resume"
        )
    damaged: dict[str, str] = {}
    for step in reversed(there):
        try:
            found = _verified(run_dir, step)
        except Damaged as error:
            damaged[folder_of(run_dir, step).name] = str(error)
            continue
        finished = (run_dir / "summary.json").is_file()  # a run killed after its last step must still export and evaluate
        if step > recipe.steps or (step == recipe.steps and finished):
            raise UserError(f"--resume: the run in {run_dir} has already done {step} of {recipe.steps} steps; raise steps to go on")
        return ResumePoint(step, found["recipe"], damaged)
    said = "; ".join(f"checkpoint {name} is damaged: {reason}" for name, reason in damaged.items())
    raise UserError(f"--resume: {run_dir} holds no whole checkpoint ({said}): put back its files, or start a new run in another folder")


def _verified(run_dir: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises Damaged."""
    folder = folder_of(run_dir, step)
    if not folder.is_dir():
        raise Damaged(f"{folder.name}: " + ("a link to nothing" if folder.is_symlink() else "not a folder"))
    if (folder / "learner" / ".metadata").exists() and not (folder / manifest.FILE).exists():
        raise Damaged(
            "learner/.metadata: the format of an earlier align (torch.distributed.checkpoint), a pickle that could run code and is not read"
        )
    found = manifest.verified(folder)
    if missing := NEEDED - found["files"].keys():
        raise Damaged(f"{manifest.FILE}: it does not name {min(missing)}")
    if found.get("step") != step:
        raise Damaged(f"{manifest.FILE}: it is of step {found.get('step')}")
    if not isinstance(found.get("recipe"), str):
        raise Damaged(f"{manifest.FILE}: it names no recipe")
    return found


def set_aside(run_dir: Path, found: ResumePoint) -> list[str]:
    """Rename the damaged checkpoints, so that the run can save those steps again, and remove the unfinished ones.

    Returns one line for each checkpoint."""
    goes_on = f"and the run continues from step {found.step}"
    lines = [f"checkpoint step_{name} was not finished when its run ended; it is removed, {goes_on}" for name in remove_unfinished(run_dir)]
    for name, reason in found.damaged.items():
        aside = run_dir / "checkpoints" / name.replace("step_", "damaged_")
        with writing(aside):
            _remove(aside)
            (run_dir / "checkpoints" / name).rename(aside)
        lines.append(f"checkpoint {name} is damaged: {reason}; it is kept as {aside.name}, {goes_on}")
    return lines


def remove_unfinished(run_dir: Path) -> list[str]:
    """Remove the checkpoints that killed processes left unfinished. Returns the step of each, as its name has it."""
    left = sorted((run_dir / "checkpoints").glob(f"{UNFINISHED}*"))
    for path in left:
        _remove(path)
    return [path.name.removeprefix(UNFINISHED) for path in left]


def continue_hint(run_dir: Path, command: str) -> str | None:
    """What a run that stopped has kept, and the command that continues it; None without a checkpoint."""
    there = steps(run_dir)
    return f"Kept: {folder_of(run_dir, there[-1])} and the metrics. To go on: {command}" if there else None


class Saver:
    """Saves the checkpoints of a run and keeps the newest `checkpoint.keep`, one at a time.

    The state is written at once. A thread then hashes the files, waits until the disk has them, writes the manifest and renames the folder,
    while the run goes on: until then it is `unfinished_NNNNNN`, so a run or a machine that dies leaves no partial checkpoint.
    """

    def __init__(self, run_dir: Path, recipe: Recipe):
        self._run_dir, self._recipe = run_dir, recipe
        self._thread, self._pending = ThreadPoolExecutor(1, "checkpoint"), None

    def save(self, state: RunState, learner: LearnerLike) -> None:
        """Write the state, once the checkpoint before is finished. Raises WriteFailed if either cannot be written; those before stay."""
        self.wait()
        final = folder_of(self._run_dir, state.step)
        if final.exists():
            return
        unfinished = final.with_name(f"{UNFINISHED}{state.step:06d}")
        _remove(unfinished)
        with _whole_or_nothing(unfinished, final):
            unfinished.mkdir(parents=True)
            state.save(unfinished, learner)
        facts = {"step": state.step, "version": versions()["align"], "recipe": digest(nodes.resolved(self._recipe))}
        self._pending = self._thread.submit(self._finish, unfinished, final, facts)

    def wait(self) -> None:
        """Wait until the checkpoint that was saved last is finished. Raises WriteFailed if it cannot be, and then forgets it."""
        if self._pending is not None:
            wait([self._pending])
            pending, self._pending = self._pending, None
            pending.result()

    def _finish(self, unfinished: Path, final: Path, facts: Mapping[str, Any]) -> None:
        with _whole_or_nothing(unfinished, final):
            manifest.write(unfinished, manifest.entries(unfinished), **facts)
            unfinished.rename(final)
            manifest.sync(final.parent)
        for old in steps(self._run_dir)[: -self._recipe.checkpoint.keep]:
            _remove(folder_of(self._run_dir, old))


@contextmanager
def _whole_or_nothing(unfinished: Path, final: Path) -> Iterator[None]:
    """Removes the folder that is not finished if the block raises. Raises WriteFailed for an error of the file system."""
    try:
        with writing(f"the checkpoint {final}"):
            yield
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def load(run_dir: Path, step: int, state: RunState, learner: LearnerLike) -> None:
    """Restore the state after `step` steps, which `newest` found. Raises UserError if the checkpoint is of another recipe."""
    state.load(folder_of(run_dir, step), learner)


def _remove(path: Path) -> None:
    """Remove a folder, a file, or a link but not its target. What cannot be removed stays: a run does not stop for that."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
