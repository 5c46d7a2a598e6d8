import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm
from align.config import part
from align.core.credit import Packing
from align.core.returns import gae, paid, whiten
from align.core.surrogates import clipped
from align.core.values import clipped_squared, explained_variance, itakura_saito
from align.describe import summary
from align.types import TokenBatch, TokenContext


@dataclass(frozen=True)
class Ppo(Algorithm):
    """Proximal policy optimisation (Schulman et al. 1707.06347) of answers: a critic, GAE(lambda) per token, several updates a batch.

    The reward arrives at the last token, that of a process reward where its steps end. A regularizer placed in the reward is taken from
    the reward of each token at pi_old, so the critic learns it; under `credit: summed` a token also answers with the derivative for
    itself, which for KL(pi||ref) by k1 is the classic penalty and for every other divergence what makes it exact. Whitening rescales
    advantages, and with them that beta.
    """

    critic: Any = part("critic", "shared")
    gamma: float = 1.0
    lam: float = 0.95
    """Of GAE: 1 is the return minus the value, 0 trusts the critic for all but one token."""
    whiten: bool = True
    """Advantages to mean 0 and standard deviation 1 over the tokens of the batch."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    value_clip: float | None = 0.2
    """How far from its old value the critic is followed, in units of reward; null follows it anywhere."""
    risk: float | None = None
    """alpha of the Itakura-Saito value loss (2505.16925), per unit of reward: above 0 the critic is averse to risk, below 0 it seeks it.
    The certainty equivalent is that of the target, which is the paper's under lam: 0. null: the squared loss."""
    value_coefficient: float = 0.1
    """Of the value loss, beside the policy's."""
    reduction: str = "token"
    """See core/reductions.py."""
    epochs: int = 4
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError("gamma and lam must lie in [0, 1]")
        if not (0 < self.clip_low < 1 and self.clip_high > 0):
            raise ValueError("clip_low must lie in (0, 1) and clip_high must be positive")
        if self.value_coefficient <= 0 or (self.value_clip is not None and self.value_clip <= 0):
            raise ValueError("value_coefficient and value_clip must be positive")
        if self.risk is not None and self.value_clip not in (None, type(self).value_clip):
            raise ValueError("value_clip changes nothing with risk: the Itakura-Saito loss has no clip")

    def _estimate(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        rewards = paid(batch.rewards, batch.inside, batch.seq_ids) - sum(c.reward for c in batch.charges.values())
        return gae(rewards, batch.values, batch.seq_ids, batch.positions, self.gamma, self.lam)

    def advantages(self, batch: TokenBatch) -> Tensor:
        advantages = self._estimate(batch)[0] - sum(c.own for c in batch.charges.values())
        return whiten(advantages) if self.whiten else advantages

    def targets(self, batch: TokenBatch) -> Tensor:
        return self._estimate(batch)[1]

    def measures(self, batch: TokenBatch) -> dict[str, float]:
        return {"critic/explained_variance": explained_variance(batch.values, batch.returns).item()}

    def formula(self) -> str:
        return f"min(ρ A, clip(ρ, 1−{self.clip_low:g}, 1+{self.clip_high:g}) A) − {self.value_coefficient:g} L_V"

    def symbols(self) -> dict[str, str]:
        return {"A": f"GAE of the critic, γ = {self.gamma:g}, λ = {self.lam:g}{', whitened' if self.whiten else ''}",
                "ρ": "π/π_old of the token", "L_V": self._value_formula()}

    def _value_formula(self) -> str:
        if self.risk is not None:
            return summary(itakura_saito)
        return "(V − R)²/2" if self.value_clip is None else summary(clipped_squared)

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        at = Packing(ctx.batch.seq_ids, ctx.batch.positions)
        loss, cut = clipped(ctx.log_rho, advantages, at, self.clip_low, self.clip_high)
        value_loss, stats = self._value_loss(ctx)
        stats |= {"ratio/clipped": cut.float(), "ratio/mean": torch.exp(ctx.log_rho.detach()), "critic/loss": value_loss.detach()}
        return loss + self.value_coefficient * value_loss, stats

    def _value_loss(self, ctx: TokenContext) -> tuple[Tensor, dict[str, Tensor]]:
        if self.risk is not None:
            return itakura_saito(ctx.values, ctx.batch.returns, self.risk), {}
        loss, cut = clipped_squared(ctx.values, ctx.batch.values, ctx.batch.returns, self.value_clip or math.inf)
        return loss, {"critic/clipped": cut.float()}
