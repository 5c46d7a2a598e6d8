"""AdamW on float32 masters of parameters in a lower precision (mixed precision, Micikevicius et al. 1710.03740).

An update of 1e-6 is far below the resolution of bfloat16 (eight bits): added to the parameter directly, it would be rounded away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class MasterAdamW(torch.optim.AdamW):
    """The parameter groups hold the masters. A parameter is its rounded master; one of 32 bits or more is its own master.

    Each gradient moves to the master as soon as it exists, so micro-batches sum in float32 and the parameter keeps no gradient.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any):
        self._masters: dict[Parameter, Parameter] = {}
        super().__init__([group | {"params": [self._made(p) for p in group["params"]]} for group in groups], **options)

    def _made(self, p: Parameter) -> Parameter:
        if p.dtype.itemsize >= 4:
            return p
        self._masters[p] = Parameter(p.detach().float())
        p.register_post_accumulate_grad_hook(self._take)
        return self._masters[p]

    def _take(self, p: Parameter) -> None:
        assert p.grad is not None  # torch calls this once it has been accumulated
        master, gradient, p.grad = self._masters[p], p.grad.float(), None
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def master(self, p: Parameter) -> Parameter:
        """The float32 master of a parameter."""
        return self._masters.get(p, p)

    @torch.no_grad()
    def assign(self, p: Parameter, value: Tensor) -> None:
        """Set the master and its parameter to a value."""
        self.master(p).copy_(value)
        p.copy_(value)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = super().step(closure)
        for p, master in self._masters.items():
            self.assign(p, master)
        return loss
