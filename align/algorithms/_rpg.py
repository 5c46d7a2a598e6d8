"""What the two styles of RPG share: a divergence from pi_old of one token, and its slope."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from align.algorithms import Algorithm
from align.config.docstrings import format_part
from align.config.parts import Setting
from align.contexts import TokenContext


class Rpg(Algorithm[TokenContext, Tensor]):
    """The base: J = E_pi[A] - beta E_old[g(rho)], rho = pi/pi_old of a token, g = f or its Bregman form k_f."""

    divergence: Any
    """A Divergence from pi_old, which drew the answers."""
    unnormalised: bool
    """k_f(rho) = f(rho) - f(1) - f'(1)(rho - 1) in place of f(rho): the same mean, as probabilities sum to 1, and less variance."""
    beta: float

    def check(self) -> None:
        super().check()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite, not {self.beta}")

    def refuse(self, setting: Setting) -> str | None:
        if not self.divergence.is_f_divergence:
            return (
                f"divergence {format_part(self.divergence)} is a function of an expectation, which one sampled token does not tell: use an "
                "f-divergence"
            )
        if self.on_policy:
            return (
                "beta and divergence change nothing: each batch serves one update, so pi is pi_old and the mean gradient of every "
                "divergence between them is 0: raise epochs or minibatches, or use grpo"
            )
        return None

    def symbols(self) -> dict[str, str]:
        of = format_part(self.divergence)
        g = f"k_f(ρ) = f(ρ) − f(1) − f'(1)(ρ − 1), f of {of}" if self.unnormalised else f"f(ρ), f of {of}"
        return super().symbols() | {"ρ": "π/π_old of the token", "g": g}

    def value(self, log_rho: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """g(rho)."""
        return self.divergence.bregman(log_rho) if self.unnormalised else self.divergence.f(log_rho)

    def slope(self, log_rho: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """dg/drho: `rho * slope` multiplies grad log pi."""
        return self.divergence.grad_weight(log_rho) if self.unnormalised else self.divergence.f_prime(log_rho)
