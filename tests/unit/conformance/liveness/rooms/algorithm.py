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
    ("*", "divergence"): Change("forward_kl"),
    ("rpg", "advantage"): Change("leave_one_out"),
    ("rpg_reinforce", "advantage"): Change("leave_one_out"),
    ("rpg", "beta"): Change(0.5),
    ("rpg_reinforce", "beta"): Change(0.5),
    ("f_dpg", "reference"): Change("uniform"),
    ("f_dpg", "log_z"): Change("prompt"),
    ("f_dpg", "baseline_window"): Change(1),
    ("f_dpg", "clamp"): Change(1e-3),
    ("f_dpg", "ratio_cap"): Change(1.0001, {"epochs": 3}),
    ("*", "preference"): Change("hinge"),
    ("sft", "likelihood"): Change("{folder}/unlikelihood.py:OneMinus"),
}

TEACHER = {NAME: {"estimator": "exact", "reference": {"name": "teacher", "path": "{other}"}, "coefficient": 1.0}}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    if part.distils:
        unjudged = {k: v for k, v in START.items() if k not in ("reward", "reward_limits")}
        return updated(unjudged | {"algorithm": node, "optimizer": {"lr": 3e-2}, "regularizers": TEACHER}, places, fresh=True)
    if part.samples:
        linked = {"regularizers": {NAME: LINK}} if part.links else {}
        # With a state, a third step shows a prompt again.
        more = {"steps": 3} if part.initial_state() else {}
        return updated({"algorithm": node, "optimizer": {"lr": 3e-2}} | linked | more, places)
    if part.labels:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK}}, places, fresh=True)
    if part.ranks:
        return updated(RANKED | {"algorithm": node, "regularizers": {NAME: LINK} if part.links else {}}, places, fresh=True)
    demonstrations = {
        "algorithm": node,
        "reward": None,
        "batch": {"prompts": 4},
        "sampling": {"max_tokens": 24},
        "task": {"name": "countdown", "size": 8, "demonstrations": True},
    }
    return updated({k: v for k, v in START.items() if k != "reward_limits"} | demonstrations, places, fresh=True)
