"""The last layer of a causal language model, and what its policy is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Scaling(NamedTuple):
    """How a logit z counts in the row functions, whose soft cap comes before their one scale: x = s softcap tanh(z / softcap)."""

    s: float
    softcap: float | None


class Head(NamedTuple):
    """The last layer of a causal language model."""

    weight: Tensor
    """[V, H]."""
    bias: Tensor | None = None
    """[V]."""
    scale: float = 1.0
    """Multiplies the logits (Cohere, Granite)."""
    softcap: float | None = None
    """`cap * tanh(logits / cap)` (Gemma)."""

    def logits(self, hidden: Tensor, temperature: float) -> Tensor:
        """[T, H] -> float32 (or wider) [T, V], after scale, soft cap and temperature."""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        z = z if self.scale == 1.0 else z * self.scale
        z = z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)
        return z if temperature == 1.0 else z / temperature

    def scaling(self, temperature: float) -> Scaling:
        """Of this head's logits before its scale and soft cap."""
        return Scaling(self.scale / temperature, None if self.softcap is None else self.softcap / self.scale)


Outcomes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(log pi, log ref) [T, V] -> [T, K], differentiable; top-k and the rest, for one."""


def every_token(logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor]:
    """The outcomes of the full vocabulary: [T, V] as they are."""
    return logp, ref_logp


class Compared(NamedTuple):
    """The reference's side of one comparison."""

    divergence: Any
    """Has `bregman`, `khat` and `grad_weight` (or `f` alone) of log u, perhaps `transform`; or is an OfRows. None asks for the
    reference's log-probs."""
    hidden: Tensor
    """[T, H'], taken as constant."""
    head: Head
    outcomes: Outcomes = every_token
    """What the divergence is taken over."""


class Comparison(NamedTuple):
    """What the row functions take of a comparison: no tensor of it."""

    divergence: Any
    """As the backend's `form` gives it; None asks for the reference's log-probs."""
    scaling: Scaling
    """Of the reference's logits."""
    outcomes: Outcomes = every_token
