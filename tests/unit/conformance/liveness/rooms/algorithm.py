from __future__ import annotations

from typing import Any

from helpers.enumeration import NAME

from liveness import Change
from liveness.nodes import START
from liveness.runs import LINK, RANKED, updated

CHANGES = {
    ("*", "reduction"): Change("sequence_mean"),
    ("*", "surrogate"): Change("reinforce", {"epochs": 3}),
    ("*", "advantage"): Change("group_centred"),
    ("ppo", "critic"): Change("separate"),
    ("ppo", "value_clip"): Change(1e-4),
    ("ppo", "risk"): Change(0.5),
    ("*", "preference"): Change("hinge"),
    ("sft", "likelihood"): Change("{folder}/unlikelihood.py:OneMinus"),
}

TEACHER = {NAME: {"estimator": "exact", "reference": {"name": "teacher", "path": "{other}"}, "coefficient": 1.0}}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    if part.distils:
        unjudged = {k: v for k, v in START.items() if k not in ("reward", "reward_limits")}
        return updated(unjudged | {"algorithm": node, "optimizer": {"lr": 3e-2}, "regularizers": TEACHER}, places, fresh=True)
    if part.samples:
        return updated({"algorithm": node, "optimizer": {"lr": 3e-2}}, places)
    if part.ranks:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK} if part.links else {}}, places, fresh=True)
    demonstrations = {
        "algorithm": node,
        "reward": None,
        "batch": {"prompts": 4},
        "task": {"name": "countdown", "size": 8, "demonstrations": True},
    }
    return updated({k: v for k, v in START.items() if k != "reward_limits"} | demonstrations, places, fresh=True)
