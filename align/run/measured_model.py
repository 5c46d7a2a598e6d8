"""The model that `align eval` is asked to measure, as a folder: of a run, one of its checkpoints, a folder, an adapter or a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from align.config.recipes import load
from align.config.schema import Recipe
from align.errors import RecipeError, UserError
from align.learner import tensor_files
from align.learner.policy import Policy
from align.manifest import Damaged, verified
from align.run import checkpoints
from align.run.initial_policy import model_folder
from align.run.merged_adapter import merged_adapter
from align.run.model_source import fetched_folder
from align.vocabulary.files import is_adapter

RECIPE = "recipe.yaml"
"""The recipe's file in the folder of a run."""


def recipe_of(model: str | Path) -> Recipe:
    """The recipe of a run, given as its folder or as one of its checkpoints. Raises UserError if the folder is not of a run."""
    run_dir = run_of(Path(model)) or Path(model)
    if not run_dir.is_dir():
        raise UserError(f"there is no folder {model}; a model of the Hugging Face Hub (owner/name) needs --recipe RECIPE")
    if not (run_dir / RECIPE).is_file():
        raise UserError(f"{model} is not the folder of a run: it has no {RECIPE}; name task, engine and sampling with --recipe RECIPE")
    return load(run_dir / RECIPE)


def run_of(folder: Path) -> Path | None:
    """The folder of the run that wrote this checkpoint; None if the folder is none."""
    inside = folder.resolve()
    run_dir = inside.parent.parent
    return run_dir if inside in [checkpoints.folder_of(run_dir, step) for step in checkpoints.steps(run_dir)] else None


def measured_model(model: str | Path, scratch: Path) -> Path:
    """A folder that the engines load. What has to be written for it, of a checkpoint or an adapter, goes into `scratch`.

    Raises UserError if there is no model: the run has not finished, the checkpoint is damaged, or the Hub has no such model.
    """
    folder = Path(model)
    if run_of(folder) is not None:
        return _exported(folder, scratch / "model")
    if (folder / RECIPE).is_file():
        if not (folder / "model" / "config.json").is_file():
            raise UserError(f"{folder} has no final model, so the run has not finished; give a checkpoint of it: {_a_checkpoint(folder)}")
        return folder / "model"
    try:
        found = fetched_folder(str(model), None, "MODEL")
        return merged_adapter(found, scratch / "merged", lambda text: None) if is_adapter(str(found)) else found
    except RecipeError as error:
        raise UserError(f"{model}: {error.problem}") from error


def _a_checkpoint(run_dir: Path) -> str:
    there = checkpoints.steps(run_dir)
    return str(checkpoints.folder_of(run_dir, there[-1])) if there else "there is none yet"


def _exported(checkpoint: Path, target: Path) -> Path:
    """The policy of a checkpoint as a model folder, with the recipe that its run has. Raises UserError for a damaged checkpoint."""
    run_dir, recipe = run_of(checkpoint), recipe_of(checkpoint)
    assert run_dir is not None  # the caller asked
    try:
        verified(checkpoint)
    except (Damaged, OSError) as error:
        raise UserError(f"the checkpoint {checkpoint} is damaged: {error}; give another one") from error
    policy = Policy(model_folder(recipe, run_dir, _refuse_training, lambda text: None), recipe.model)
    saved = tensor_files.load(checkpoint / "learner")["policy"]
    with torch.no_grad():
        for name, parameter in policy.trained():
            if name not in saved or saved[name].shape != parameter.shape:
                raise UserError(f"{checkpoint} does not fit the recipe of its run: it has no {name} of shape {list(parameter.shape)}")
            parameter.copy_(saved[name])
    policy.export(target)
    return target


def _refuse_training(recipe: Recipe, run_dir: Path) -> Any:
    raise UserError(
        "the warm start that the run began with is not in the cache (another version of align made it, or ALIGN_CACHE differs), so a "
        "checkpoint cannot be loaded; measure a model that the run has exported"
    )
