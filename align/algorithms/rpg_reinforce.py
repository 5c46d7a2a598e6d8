from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import _rpg, policy_loss
from align.config.formulas import formula, symbols
from align.config.nodes import part
from align.contexts import TokenContext


@dataclass(frozen=True)
class RpgReinforce(_rpg.Rpg):
    """Regularised policy gradient in the REINFORCE style (Zhang et al. 2505.17508): the surrogate of A - beta g'(rho), without gradient.

    Unclipped its gradient is `-rho (A - beta g'(rho)) grad log pi`, of each token that of `rpg`: the paper's weights w(R - beta log w) for
    URKL, w(R - beta (log w + 1)) for RKL, w R - beta (w - 1) for UFKL, w R + beta for FKL. RPG-style clip is the surrogate dual_clip on
    that advantage, whose sign chooses the branch (the authors' code takes the sign of A alone, and clips w inside the KL term too). The
    value is the surrogate's, not `sg(W) log pi`.
    """

    advantage: Any = part("advantage", "group_centred")
    surrogate: Any = part("surrogate", "dual_clip")
    divergence: Any = part("divergence", "reverse_kl")
    unnormalised: bool = True
    """k_f(rho) = f(rho) - f(1) - f'(1)(rho - 1) in place of f(rho): the same mean gradient, with less variance."""
    beta: float = 1e-4
    """Of the divergence from pi_old."""
    reduction: Any = part("reduction", "token")
    epochs: int = 2
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return formula(self.surrogate)

    def symbols(self) -> dict[str, str]:
        found = super().symbols() | symbols(self.surrogate)
        return found | {"A": f"({found['A']}) − {self.beta:g} g'(ρ), of the current policy, without gradient"}

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        log_rho = ctx.log_rho.detach()
        loss, moved = policy_loss(self.surrogate, ctx, advantages - self.beta * self.slope(log_rho))
        return loss, moved | {"rpg/divergence": self.value(log_rho)}
