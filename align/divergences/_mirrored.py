from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import Divergence


@dataclass(frozen=True)
class Mirrored(Divergence):
    """f*(u) = u f(1/u), with D_f*(q||p) = D_f(p||q): differentiating it in q is differentiating the divergence in its second argument."""

    of: Divergence

    def f(self, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.exp(log_u) * self.of.f(-log_u)
