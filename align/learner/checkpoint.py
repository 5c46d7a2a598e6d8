"""The learner's checkpoint, in torch.distributed.checkpoint format: any number of ranks can read it, and it has no pickle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from align.config.schema import Recipe
from align.disk import writing
from align.errors import UserError
from align.learner import references
from align.learner.mixed_precision_adamw import MasterAdamW
from align.references import RunningReference


class Checkpointed(Protocol):
    """The attributes of a learner that a checkpoint saves."""

    recipe: Recipe
    optimizer: MasterAdamW
    references: dict[str, RunningReference]
    version: int
    updates: int

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...


def state_dict(learner: Checkpointed) -> dict[str, Any]:
    """Tensors: trained parameters (the critic's too) in float32, Adam's moments, reference states with hashes, batch and update counts."""
    return {**_trained(learner), "references": references.saved(learner.references)}


def _trained(learner: Checkpointed) -> dict[str, Any]:
    parameters = {name: learner.optimizer.master(p) for name, p in learner.trained()}
    moments = {
        name: {key: learner.optimizer.state[p][key] for key in ("step", "exp_avg", "exp_avg_sq")}
        if p in learner.optimizer.state
        else {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        for name, p in parameters.items()
    }
    return {
        "policy": {n: p.detach() for n, p in parameters.items()},
        "optimizer": moments,
        "version": torch.tensor(learner.version),
        "updates": torch.tensor(learner.updates),
    }


def save(learner: Checkpointed, folder: str) -> None:
    """Save `state_dict` into a folder. Raises WriteFailed for a full disk."""
    with writing(folder), _single_process():
        try:
            state_dict_saver.save(state_dict(learner), checkpoint_id=folder, no_dist=True)
        except CheckpointException as error:  # not an Exception; it holds what each rank raised
            raise next(iter(error.failures.values()))[0] from error


def load(learner: Checkpointed, folder: str) -> None:
    """Raises UserError if the folder is not a checkpoint of this recipe's model, or a reference has changed."""
    if not (Path(folder) / ".metadata").is_file():
        raise UserError(f"{folder} is not a complete checkpoint: delete it to resume from the one before")
    state = _copy({**_trained(learner), "references": references.to_be_read(learner.references)})
    try:
        with _single_process():
            state_dict_loader.load(state, checkpoint_id=folder, no_dist=True)
    except (CheckpointException, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} does not fit this recipe's model: resume with the recipe.yaml of the run ({str(error).splitlines()[0]})"
        ) from error
    load_state_dict(learner, state)


def load_state_dict(learner: Checkpointed, state: dict[str, Any]) -> None:
    """Restore what `state_dict` returned. Raises UserError if a reference has changed."""
    for name, p in learner.trained():
        learner.optimizer.assign(p, state["policy"][name])
        learner.optimizer.state[learner.optimizer.master(p)] = state["optimizer"][name]
    references.restore(learner.references, learner.recipe.regularizers, state["references"])
    learner.version, learner.updates = int(state["version"]), int(state["updates"])


@contextmanager
def _single_process():
    """Silence torch's warning that it assumes a single process, which `no_dist` states already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value
