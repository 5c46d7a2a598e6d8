from __future__ import annotations

import dataclasses
from typing import Any

from helpers.enumeration import NAME

from liveness import Change
from liveness.batch import context

REQUIRED = {"off_policy_mask": {"threshold": 0.02}, "overlong": {"limit": 3, "buffer": 2}, "uncertainty_bonus": {"steps": 3, "share": 0.4}}
CHANGES = {
    ("importance", "level"): Change("sequence"),
    ("importance", "beyond_cap"): Change("mask", {"cap": 1.05}),
    ("importance", "cap"): Change(1.02, {"cap": 1.05}),
    ("length_complexity", "base"): Change(1.5),
    ("munchausen", "alpha"): Change(0.5),
    ("munchausen", "credit"): Change("summed"),
    ("munchausen", "floor"): Change(-0.01),
    ("win_rate", "temperature"): Change(0.5),
    ("worst_case_rewards", "parts"): Change(["second"]),
    ("uncertainty_bonus", "mask_id"): Change(1),
}


def probe(part: Any, **_) -> Any:
    batch, seen = context().batch, []
    for step in range(5):
        batch = dataclasses.replace(batch, step=step)
        other = part.other_context(batch)
        seen.append(None if other is None else [other.input_ids, other.first_columns])
    return [*seen, part.rewards(batch, batch.rewards), part.advantages(batch, batch.advantages, NAME), part.metrics(batch, NAME)]
