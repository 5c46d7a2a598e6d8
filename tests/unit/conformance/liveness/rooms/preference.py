from __future__ import annotations

from typing import Any

import torch

from align.preferences import Rankings

REQUIRED = {"cdpo": {"label_smoothing": 0.1}, "robust": {"label_smoothing": 0.1}}


def probe(part: Any, **_) -> Any:
    n = torch.arange(5)
    rankings = Rankings(scores=torch.sin(n**2.0), beta=torch.full((5,), 0.5), lengths=n + 1, ids=torch.tensor([0, 0, 0, 1, 1]))
    return part.of_rankings(rankings)
