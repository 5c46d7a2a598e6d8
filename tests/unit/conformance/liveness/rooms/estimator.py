from __future__ import annotations

from typing import Any

import torch

from align.divergences.reverse_kl import ReverseKl
from liveness import Change

CHANGES = {("straight_through", "of"): Change("k1"), ("top_k", "k"): Change(2)}


def probe(part: Any, **_) -> Any:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    table = torch.log_softmax(torch.arange(12.0).reshape(2, 6).sin(), -1)
    return [part.value(ReverseKl(), x), part.grad_weight(ReverseKl(), x), part.reward(ReverseKl(), x), part.outcomes(table, table.flip(0))]
