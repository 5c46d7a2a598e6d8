from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from align.core import closed_forms
from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols


@dataclass(frozen=True)
class Reinforce(Surrogate):
    """-rho A, no bound: REINFORCE, off-policy weighed by the ratio of the token (RLOO on-policy, 2402.14740)."""

    def formula(self) -> str:
        return "ρ A"

    def symbols(self) -> dict[str, str]:
        return token_symbols()

    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        return -closed_forms.ratio_of(log_rho) * advantages, torch.zeros_like(log_rho, dtype=torch.bool)

    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        return log_rho
