from __future__ import annotations

from typing import Any

from enumeration import NAME

from liveness import Change
from liveness.nodes import START
from liveness.runs import LINK, RANKED, updated

CHANGES = {
    ("*", "reduction"): Change("sequence"),
    ("grpo", "clip_low"): Change(0.01, {"epochs": 2}),
    ("grpo", "clip_high"): Change(0.01, {"epochs": 2}),
    ("grpo", "advantage"): Change("group_centred"),
    ("grpo", "surrogate"): Change("reinforce", {"epochs": 2}),
    ("grpo", "ceiling"): Change(1.002, {"epochs": 3, "minibatches": 4, "surrogate": "dual_clip", "clip_high": 1e-3}),
    ("grpo", "temperature"): Change(2.0, {"epochs": 2, "surrogate": "sapo"}),
    ("grpo", "temperature_negative"): Change(2.0, {"epochs": 2, "surrogate": "sapo"}),
    ("ppo", "critic"): Change("separate"),
    ("ppo", "gamma"): Change(0.5),
    ("ppo", "lam"): Change(0.5),
    ("ppo", "clip_low"): Change(0.01),
    ("ppo", "clip_high"): Change(0.01),
    ("ppo", "value_clip"): Change(1e-4),
    ("ppo", "risk"): Change(0.5),
    ("dpo", "preference"): Change("hinge"),
    ("dpo", "label_smoothing"): Change(0.2, {"preference": "cdpo", "label_smoothing": 0.1}),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    if part.samples:
        return updated({"algorithm": node, "optimizer": {"lr": 3e-2}}, places)
    if part.ranks:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK} if part.links else {}}, places, fresh=True)
    demonstrations = {"algorithm": node, "reward": None, "batch": {"prompts": 4},
                      "task": {"name": "countdown", "size": 8, "demonstrations": True}}
    return updated({k: v for k, v in START.items() if k != "reward_limits"} | demonstrations, places, fresh=True)
