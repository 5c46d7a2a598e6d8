from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import _rpg, policy_loss
from align.config.nodes import build_part, part
from align.contexts import TokenContext
from align.core import closed_forms


@dataclass(frozen=True)
class Rpg(_rpg.Rpg):
    """Regularised policy gradient, fully differentiable losses (Zhang et al. 2505.17508): -rho A + beta g(rho), differentiated as it is.

    The paper's four are forward_kl, KL(pi_old||pi), and reverse_kl, KL(pi||pi_old), each unnormalised or not; its URKL lacks the constant
    beta, with which the value is the divergence. No other f is in the paper. `grpo` with surrogate reinforce and a sampled penalty against
    reference behaviour is the unnormalised loss. Nothing is clipped: see `rpg_reinforce`.
    """

    surrogate = build_part("surrogate", "reinforce", "surrogate")

    advantage: Any = part("advantage", "group_centred")
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
        return f"ρ A − {self.beta:g} g"

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, moved = policy_loss(self.surrogate, ctx, advantages)
        log_rho = ctx.log_rho.detach()
        # value and slope are closed forms: f itself is not differentiated.
        pull = closed_forms.ratio_of(log_rho) * self.slope(log_rho)
        divergence = self.value(log_rho)
        return loss + self.beta * (divergence + pull * (ctx.log_rho - log_rho)), moved | {"rpg/divergence": divergence}
