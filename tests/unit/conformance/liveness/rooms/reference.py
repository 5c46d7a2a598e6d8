from __future__ import annotations

from typing import Any

from align.config.schema import Model
from align.learner.policy import Policy
from liveness import Change

REQUIRED = {
    "checkpoint": {"path": "{other}"},
    "context": {"prepend": "1+2"},
    "soup": {"paths": ["{other}"]},
    "teacher": {"path": "{other}"},
}
CHANGES = {
    ("*", "path"): Change("{third}"),
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
    return seen
