"""The learner's checkpoint: its state as safetensors and JSON, which any tool can read and which runs no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from align.config.schema import Recipe
from align.disk import writing
from align.errors import UserError
from align.learner import references, tensor_files
from align.learner.mixed_precision_adamw import MasterAdamW
from align.references import RunningReference, of_recipe


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
    return {**_trained(learner), "references": references.states_to_save(learner.references)}


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
    with writing(folder):
        tensor_files.save(Path(folder), state_dict(learner))


def load(learner: Checkpointed, folder: str) -> None:
    """Raises UserError if the folder is not a checkpoint of this recipe's model, or a reference has changed."""
    wanted = {**_trained(learner), "references": references.states_to_load(learner.references)}
    found = tensor_files.load(Path(folder))
    try:
        for half in ("policy", "optimizer"):
            if extra := found[half].keys() - wanted[half].keys():
                raise _Misfit(f"{half}: {min(extra)} is in the checkpoint alone")
        state = _fitted(wanted, found, "")
    except _Misfit as error:
        raise UserError(f"{folder} does not fit this recipe's model: resume with the recipe.yaml of the run ({error})") from error
    load_state_dict(learner, state)


class _Misfit(Exception):
    """Something that the learner needs and the checkpoint has not, or in another shape."""


def _fitted(wanted: Any, found: Any, where: str) -> Any:
    """What was found, in the structure that is wanted and on the devices of its tensors. Raises _Misfit."""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            raise _Misfit(f"{where}: not a mapping")
        if missing := wanted.keys() - found.keys():
            raise _Misfit(f"{f'{where}/{min(missing)}'.lstrip('/')} is missing")
        return {key: _fitted(inner, found[key], f"{where}/{key}".lstrip("/")) for key, inner in wanted.items()}
    if not isinstance(wanted, torch.Tensor):
        return found
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        raise _Misfit(f"{where}: {list(found.shape) if isinstance(found, torch.Tensor) else found!r:.40}, here {list(wanted.shape)}")
    return found.to(wanted.device)


def load_state_dict(learner: Checkpointed, state: dict[str, Any]) -> None:
    """Restore what `state_dict` returned. Raises UserError if a reference has changed."""
    for name, p in learner.trained():
        learner.optimizer.assign(p, state["policy"][name])
        learner.optimizer.state[learner.optimizer.master(p)] = state["optimizer"][name]
    references.restore(learner.references, of_recipe(learner.recipe), state["references"])
    learner.version, learner.updates = int(state["version"]), int(state["updates"])
