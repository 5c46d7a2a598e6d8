from __future__ import annotations

from typing import Any

import torch


def probe(part: Any, **_) -> Any:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    return [part.khat(x), part.grad_weight(x), part.bregman(x), part.f(x), *part.transform(part.f(x).abs())]
