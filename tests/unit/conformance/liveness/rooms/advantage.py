from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from liveness import Change
from liveness.batch import context

CHANGES = {("gdpo", "weights"): Change({"first": 2.0}), ("gae", "gamma"): Change(0.5), ("gae", "lam"): Change(0.5)}


def probe(part: Any, **_) -> Any:
    batch = context().batch
    return part.advantages(replace(batch, values=torch.sin(torch.arange(len(batch.seq_ids)) ** 2.0)))
