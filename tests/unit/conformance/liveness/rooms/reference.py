from __future__ import annotations

from typing import Any

import torch
from helpers.built import single_turn

from align.config.schema import Model
from align.learner.policy import Policy
from align.types import TokenBatch
from liveness import Change

REQUIRED = {
    "checkpoint": {"path": "{other}"},
    "context": {"prepend": "1+2"},
    "soup": {"paths": ["{other}"]},
    "teacher": {"path": "{other}"},
}
CHANGES = {
    ("*", "path"): Change("{third}"),
    ("disturbed", "gradient"): Change("both"),
    ("disturbed", "mask_id"): Change(3, {"share": 0.5}),
    ("disturbed", "share"): Change(0.6),
    ("disturbed", "seed"): Change(7, {"share": 0.5}),
    ("soup", "paths"): Change(["{third}"]),
    ("soup", "weights"): Change([0.25]),
    ("context", "prepend"): Change("7"),
    ("context", "of"): Change("ema"),
    ("ema", "every"): Change(2),
    ("window", "last"): Change(3, {"last": 2, "every": 1}),
    ("window", "every"): Change(2, {"every": 1}),
    ("window", "decay"): Change(0.5),
    ("hard_reset", "every"): Change(2, {"every": 1}),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    policy = Policy(places["model"], Model(path=places["model"]))
    reference = part.start(policy)
    seen = [reference.content_hash()]
    for step in (1, 2, 3):
        reference.before_batch()
        for _, p in policy.trained():
            p.data.mul_(1 + 0.1 * step)
        reference.after_step(step)
        seen.append(reference.content_hash())
    ids = torch.arange(3, 19).repeat(2, 1)
    micro = TokenBatch(
        input_ids=ids, **single_turn(torch.tensor([12, 12]), torch.tensor([3, 2])), group_ids=torch.arange(2), prompt_ids=("a", "b")
    )
    other = reference.branch(micro)
    branch = None if other is None else other.input_ids
    return [*seen, None if part.tokens_only else reference.hidden(micro), branch]
