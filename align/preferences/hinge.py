from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.preferences import Pairs, Preference


@dataclass(frozen=True)
class Hinge(Preference):
    """max(0, 1 - beta D), D = s_w - s_l (SLiC, Zhao et al. 2305.10425)."""

    def formula(self) -> str:
        return "−max(0, 1 − β (s_w − s_l))"

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        return torch.relu(1 - pairs.beta * pairs.margin)
