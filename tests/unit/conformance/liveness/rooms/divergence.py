from __future__ import annotations

from typing import Any

import torch

from align.divergences import StateFunctional
from liveness import Change

CHANGES = {
    ("cvar", "mu"): Change(0.5),
    ("pld", "k"): Change(3),
    ("alphanet", "clip"): Change(1.2),
    ("alphanet", "high"): Change(2.0, {"low": -20.0}),
    ("symmetric_cross_entropy", "floor"): Change(-2.0),
}


def probe(part: Any, **_) -> Any:
    if isinstance(part, StateFunctional):
        # The policy is the less certain one in the first state, the reference in the second.
        logits = torch.sin(torch.arange(28, dtype=torch.float64) ** 2).view(2, 2, 7) * torch.tensor([[1.0, 4.0], [4.0, 1.0]])[..., None]
        leaf = logits[0].clone().requires_grad_()
        found = part.of_state(torch.log_softmax(leaf, -1), torch.log_softmax(logits[1], -1))
        return [found, *torch.autograd.grad(found.sum(), leaf)]
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    return [part.khat(x), part.grad_weight(x), part.bregman(x), part.f(x), *part.transform(part.f(x).abs())]
