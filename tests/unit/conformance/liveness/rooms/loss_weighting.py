from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from liveness.batch import context

REQUIRED: dict[str, Any] = {}
CHANGES: dict[str, Any] = {}


def probe(part: Any, **_) -> Any:
    batch = context().batch
    batch = replace(batch, prompt_ids=tuple(str(i) for i in range(len(batch.lengths))))
    state = part.initial_state()
    seen = [part.of_losses(torch.linspace(-1, 3, 9)), part.of_batch(batch, state)]
    return [*seen, part.of_batch(batch, part.update(state, {"0": 0.7, "1": 3.0}))]
