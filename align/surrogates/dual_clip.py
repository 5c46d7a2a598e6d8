from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols
from align.surrogates.clipped import check_clips, clip_formula, clipped


@dataclass(frozen=True)
class DualClip(Surrogate):
    """`clipped`, and at most -ceiling A where A < 0 (1912.09729; verl's c = 3).

    The same function as INTELLECT-2's two-sided clip (2505.07291; TRL's `delta`), which caps the unclipped rho.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    ceiling: float = 3.0
    """Above 1 + clip_high: the largest ratio that a token of negative advantage is pushed down by."""

    def __post_init__(self):
        check_clips(self.clip_low, self.clip_high)
        if self.ceiling <= 1 + self.clip_high:
            raise ValueError(
                f"ceiling must be above 1 + clip_high, {1 + self.clip_high:g}, not {self.ceiling:g}: the clip would never be "
                "reached where A < 0"
            )

    def formula(self) -> str:
        return f"max({clip_formula('ρ', self.clip_low, self.clip_high)}, c A)"

    def symbols(self) -> dict[str, str]:
        return token_symbols() | {"c": f"{self.ceiling:g} where A < 0; where A >= 0 the minimum alone"}

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        loss, cut = clipped(log_rho, advantages, self.clip_low, self.clip_high)
        most = torch.where(advantages < 0, -self.ceiling * advantages, torch.inf)
        return torch.minimum(loss, most), cut | (most < loss).detach()

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return log_rho
