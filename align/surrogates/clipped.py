from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from align.core.credit import Packing
from align.surrogates import Surrogate, _clipping, token_symbols


@dataclass(frozen=True)
class Clipped(Surrogate):
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) (PPO 1707.06347, equation 7; two bounds: DAPO 2503.14476)."""

    clip_low: float = 0.2
    """1 bounds from above only."""
    clip_high: float = 0.2
    """Above clip_low: DAPO's clip-higher."""

    def __post_init__(self):
        _clipping.check_clips(self.clip_low, self.clip_high)

    def formula(self) -> str:
        return _clipping.formula("ρ", self.clip_low, self.clip_high)

    def symbols(self) -> dict[str, str]:
        return token_symbols()

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        return _clipping.clipped(log_rho, advantages, self.clip_low, self.clip_high)

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return log_rho
