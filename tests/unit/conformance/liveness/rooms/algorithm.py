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
    ("*", "loss_weighting"): Change("kl_dro"),
    ("grpo", "loss_weighting"): Change("top_entropy"),
    ("srpo", "revision"): Change("+9="),
    ("ppo", "critic"): Change("separate"),
    ("ppo", "value_clip"): Change(1e-4),
    ("ppo", "risk"): Change(0.5),
    ("*", "preference"): Change("hinge"),
    ("sft", "likelihood"): Change("{folder}/unlikelihood.py:OneMinus"),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    if part.samples:
        return updated({"algorithm": node, "optimizer": {"lr": 3e-2}}, places)
    if part.labels:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK}}, places, fresh=True)
    if part.ranks:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK} if part.links else {}}, places, fresh=True)
    demonstrations = {
        "algorithm": node,
        "reward": None,
        "batch": {"prompts": 4},
        "task": {"name": "countdown", "size": 8, "demonstrations": True},
    }
    return updated({k: v for k, v in START.items() if k != "reward_limits"} | demonstrations, places, fresh=True)
