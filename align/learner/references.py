"""The references of a run: sharing between regularizers, the check of their start, and their state in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from align.config.docstrings import format_part
from align.config.frozen import checked_instance
from align.config.nodes import resolved
from align.config.parts import ships
from align.config.renamed_keys import refuse_moved_methods
from align.config.returned import Returned
from align.config.schema import Recipe
from align.errors import RunStopped, UserError
from align.learner.metric_accumulator import MetricAccumulator, reference_place
from align.learner.parameters import BASE, OWN
from align.learner.policy import Policy
from align.references import Reference, RunningReference, of_recipe, owner, place

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
"""Largest k3, in nats a token, that rounding explains, by precision; a different model gives 1e-2 or more."""
BLANK = "00" * 8


def start_references(recipe: Recipe, policy: Policy) -> dict[str, RunningReference]:
    """Each running reference of the recipe by name (see `align.references.of_recipe`). Equal configurations share one copy."""
    shared: dict[str, RunningReference] = {}
    by_name = {}
    for name, reference in of_recipe(recipe).items():
        key = json.dumps(resolved(reference), sort_keys=True, default=str)
        if key not in shared:
            shared[key] = checked_instance(reference, reference.start(policy), RunningReference)
            if reference.precomputes:
                refuse_moved_methods("running reference", type(shared[key]), place(name))
            _check_parameters(shared[key], place(name))
        by_name[name] = shared[key]
    return by_name


def _check_parameters(reference: RunningReference, where: str) -> None:
    """Raises RecipeError for a user's reference whose `parameters` do not fit its model. One with a `hidden` of its own is not asked."""
    if ships(type(reference)) or type(reference).hidden is not RunningReference.hidden:
        return
    found, trained = reference.parameters(), {name: p.shape for name, p in reference.model.trained()}
    fits = isinstance(found, dict) and all(trained.get(name) == getattr(value, "shape", ()) for name, value in found.items())
    if not (fits or found is OWN or (found is BASE and reference.model.lora)):
        without = "" if reference.model.lora else ". BASE (None) is the model without its adapter, and this model has none"
        Returned(reference, "parameters", where).refuse(
            f"{found!r:.60}", f"a dict of tensors with names and shapes of the trained parameters, or align.learner.parameters.OWN{without}"
        )


def distinct_references(references: dict[str, RunningReference]) -> dict[str, RunningReference]:
    """Each reference once, under the first regularizer that uses it."""
    return {name: r for name, r in references.items() if name == next(n for n, other in references.items() if other is r)}


def stop_unless_initial(
    references: Mapping[str, Reference], dtype: str, referenced: list[str], tally: MetricAccumulator, step: int
) -> None:
    """Raises RunStopped if a reference that starts as the policy gives other log-probs than the policy on the first batch."""
    measured = tally.stats()
    for name in referenced:
        if references[name].starts_at_policy:
            k3 = measured[f"{reference_place(name, referenced)}/k3"].mean
            if not abs(k3) <= TOLERANCE[dtype]:
                raise RunStopped(
                    f"step {step}: before the first update the policy is {k3:.2e} nats a token away from the reference of "
                    f"{owner(name)} ({format_part(references[name])}), which is to be the policy itself; nothing was "
                    "applied. An adapter that the policy has on and the reference off, or anything random in the forward "
                    "pass, does this. Where another model is meant, name it: reference: {name: checkpoint, path: ...}"
                )


def reference_info(references: dict[str, RunningReference], parts: Mapping[str, Reference]) -> dict[str, dict[str, Any]]:
    """By name: the reference, how often the reference has changed, and the hash of its current parameters."""
    return {name: {"reference": format_part(parts[name]), "version": r.version, "hash": r.content_hash()} for name, r in references.items()}


def states_to_save(references: dict[str, RunningReference]) -> dict[str, Any]:
    """The state of each reference, and a hash with which a resumed run verifies it."""
    return {name: {**_of(r), "hash": _bytes(r.content_hash())} for name, r in distinct_references(references).items()}


def states_to_load(references: dict[str, RunningReference]) -> dict[str, Any]:
    """A target for loading with the structure of `states_to_save`, without computing the hashes, which is slow."""
    return {name: {**_of(r), "hash": _bytes(BLANK)} for name, r in distinct_references(references).items()}


def _of(reference: RunningReference) -> dict[str, Any]:
    return {"state": reference.state_dict(), "version": torch.tensor(reference.version)}


def restore(references: dict[str, RunningReference], parts: Mapping[str, Reference], state: dict[str, Any]) -> None:
    """Raises UserError if a reference that is loaded anew at each start has changed."""
    for name, reference in distinct_references(references).items():
        reference.restore(int(state[name]["version"]), state[name]["state"])
        now = reference.content_hash()
        if not torch.equal(_bytes(now), state[name]["hash"]):
            before = bytes(state[name]["hash"].tolist()).hex()
            raise UserError(
                f"the reference of {owner(name)} ({format_part(parts[name])}) is not the one the run was "
                f"started with (hash {now}, was {before}): the folder it is taken from has changed. Put it back, or "
                "start a new run"
            )


def _bytes(hexadecimal: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)
