from __future__ import annotations

import dataclasses
from typing import Any

import torch
from helpers.enumeration import NAME

from liveness import Change
from liveness.batch import context

REQUIRED = {
    "adaptive": {"target": 0.1, "horizon": 100.0},
    "constant": {"value": 0.1},
    "cosine": {"start": 0.1, "end": 0.3, "steps": 10},
    "grpo_d": {"minimum": 0.02, "maximum": 0.1, "steps": 10},
    "lagrangian": {"target": 0.1},
    "linear": {"start": 0.1, "end": 0.3, "steps": 10},
    "piecewise": {"points": [[0, 0.1], [10, 0.2]]},
    "ppo_penalty": {"target": 0.1},
    "warmup": {"steps": 4, "to": 0.1},
}
CHANGES = {
    ("beta_dpo", "momentum"): Change(0.5),
    ("beta_dpo", "per"): Change("batch"),
    ("grpo_d", "monotone"): Change(True),
    ("lagrangian", "minimum"): Change(0.02),
    ("lagrangian", "maximum"): Change(0.5),
    ("piecewise", "points"): Change([[0, 0.1], [10, 0.3]]),
    ("ppo_penalty", "minimum"): Change(0.02),
    ("ppo_penalty", "maximum"): Change(8.0),
    ("warmup", "to"): Change({"name": "linear", "start": 0.1, "end": 0.2, "steps": 9}),
}


def probe(part: Any, **_) -> Any:
    batch = dataclasses.replace(
        context().batch.select(torch.arange(4)), prompt_ids=("a", "a", "b", "b"), group_ids=torch.tensor([0, 0, 1, 1])
    )
    near = [0.02 * (s % 11) for s in range(22)]
    seen, state = [], part.initial_state()
    for step, measured in enumerate([*near, *[1.0] * 150, *[0.0] * 150]):
        seen.append([part.beta(step, state), part.multipliers(batch, NAME, state)])
        state = part.update_batch(part.update(state, measured, 8), batch, NAME)
        state = part.update_prompts(state, {"a": measured, "b": 0.002 * measured})
    return seen
