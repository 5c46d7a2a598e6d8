"""The references of a run: who shares one, where each must start, and what a checkpoint holds of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from align.config.docstrings import format_part
from align.config.frozen import running
from align.config.nodes import resolved
from align.config.schema import Recipe
from align.errors import RunStopped, UserError
from align.learner.metric_accumulator import MetricAccumulator, reference_place
from align.learner.policy import Policy
from align.references import Reference, RunningReference
from align.regularizers import Regularizer

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
"""Nats a token (k3) that rounding explains, by precision; another model is 1e-2 away and more."""
BLANK = "00" * 8


def started(recipe: Recipe, policy: Policy) -> dict[str, RunningReference]:
    """One reference for each regularizer that has one; equal configurations share one, so that a stack costs one copy."""
    shared: dict[str, RunningReference] = {}
    by_regularizer = {}
    for name, regularizer in recipe.regularizers.items():
        if regularizer.reference is not None:
            key = json.dumps(resolved(regularizer.reference), sort_keys=True, default=str)
            if key not in shared:
                shared[key] = running(regularizer.reference, regularizer.reference.start(policy), RunningReference)
            by_regularizer[name] = shared[key]
    return by_regularizer


def distinct(references: dict[str, RunningReference]) -> dict[str, RunningReference]:
    """Each once, by the first regularizer that has it."""
    return {name: r for name, r in references.items() if name == next(n for n, other in references.items() if other is r)}


def stop_unless_initial(
    references: Mapping[str, Reference], dtype: str, referenced: list[str], tally: MetricAccumulator, step: int
) -> None:
    """Raises RunStopped where a reference that begins as the policy does not give the first batch the policy's log-probs."""
    measured = tally.stats()
    for name in referenced:
        if references[name].starts_at_policy:
            k3 = measured[f"{reference_place(name, referenced)}/k3"].mean
            if not abs(k3) <= TOLERANCE[dtype]:
                raise RunStopped(
                    f"step {step}: before the first update the policy is {k3:.2e} nats a token away from the reference of "
                    f"regularizers.{name} ({format_part(references[name])}), which is to be the policy itself; nothing was "
                    "applied. An adapter that the policy has on and the reference off, or anything random in the forward "
                    "pass, does this. Where another model is meant, name it: reference: {name: checkpoint, path: ...}"
                )


def described(references: dict[str, RunningReference], regularizers: Mapping[str, Regularizer]) -> dict[str, dict[str, Any]]:
    """By regularizer: what its reference is, how often it has changed, and the hash of its parameters now."""
    return {
        name: {"reference": format_part(regularizers[name].reference), "version": r.version, "hash": r.content_hash()}
        for name, r in references.items()
    }


def saved(references: dict[str, RunningReference]) -> dict[str, Any]:
    """The state of each, and the hash by which a resumed run knows it."""
    return {name: {**_of(r), "hash": _bytes(r.content_hash())} for name, r in distinct(references).items()}


def to_be_read(references: dict[str, RunningReference]) -> dict[str, Any]:
    """What `saved` gives, to be read into: without the hashes, which take long."""
    return {name: {**_of(r), "hash": _bytes(BLANK)} for name, r in distinct(references).items()}


def _of(reference: RunningReference) -> dict[str, Any]:
    return {"state": reference.state_dict(), "version": torch.tensor(reference.version)}


def restore(references: dict[str, RunningReference], regularizers: Mapping[str, Regularizer], state: dict[str, Any]) -> None:
    """Raises UserError where a reference that is taken anew at each start is not the one it was."""
    for name, reference in distinct(references).items():
        reference.restore(int(state[name]["version"]), state[name]["state"])
        now = reference.content_hash()
        if not torch.equal(_bytes(now), state[name]["hash"]):
            before = bytes(state[name]["hash"].tolist()).hex()
            raise UserError(
                f"the reference of regularizers.{name} ({format_part(regularizers[name].reference)}) is not the one the run was "
                f"started with (hash {now}, was {before}): the folder it is taken from has changed. Put it back, or "
                "start a new run"
            )


def _bytes(hexadecimal: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)
