import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.core import closed_forms
from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols


@dataclass(frozen=True)
class Sapo(Surrogate):
    """-A sigmoid(tau (rho - 1)) 4/tau, tau by the sign of A (SAPO 2511.20347): a soft bound, slope 1 at rho = 1."""

    temperature: float = 1.0
    """Where A > 0: the higher, the sooner a token far from rho = 1 loses its gradient."""
    temperature_negative: float = 1.05
    """Where A < 0."""

    def __post_init__(self):
        if self.temperature <= 0 or self.temperature_negative <= 0:
            raise ValueError(
                f"temperature and temperature_negative must be positive, not {self.temperature:g} and {self.temperature_negative:g}"
            )

    def formula(self) -> str:
        return "A σ(τ (ρ − 1)) 4/τ"

    def symbols(self) -> dict[str, str]:
        return token_symbols() | {"τ": f"{self.temperature:g} where A > 0, else {self.temperature_negative:g}"}

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        tau = torch.full_like(log_rho, self.temperature).where(advantages > 0, self.temperature_negative)
        # Far out the slope is 0 in floating point, and infinity would make it NaN.
        z = tau * torch.expm1(closed_forms.within(log_rho, above=1.0, factor=max(self.temperature, self.temperature_negative)))
        # sigmoid(z) is 1 in float32 from z = 17 on, and its derivative 0; that of 1 - sigmoid(-z) keeps its digits.
        bounded = torch.where(z > 0, 1 - torch.sigmoid(-z), torch.sigmoid(z))
        loss = -bounded * (4 / tau) * advantages
        return loss, torch.zeros_like(log_rho, dtype=torch.bool)

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        """log of 4 rho sigmoid'(tau (rho - 1)), by logarithms: far out the derivative itself is 0 in floating point."""
        z = self.temperature * torch.expm1(closed_forms.within(log_rho, above=1.0, factor=self.temperature))
        return log_rho + math.log(4) + logsigmoid(z) + logsigmoid(-z)

    @property
    def ratio_varies(self) -> str | None:
        if self.temperature == self.temperature_negative:
            return None
        return (
            f"its temperatures differ, so the sign of an advantage decides what multiplies it; with temperature_negative: "
            f"{self.temperature:g} it does not"
        )
