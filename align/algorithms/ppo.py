import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import Algorithm, policy_loss
from align.config.docstrings import summary
from align.config.formulas import formula, symbols
from align.config.nodes import part
from align.contexts import TokenContext
from align.core.values import clipped_squared, explained_variance, itakura_saito
from align.types import Columns


@dataclass(frozen=True)
class Ppo(Algorithm[TokenContext, Tensor]):
    """Proximal policy optimisation (Schulman et al. 1707.06347) of answers: a critic, an advantage for each token, several updates a batch.

    A regularizer placed in the reward is taken from the reward of each token at pi_old, so the critic learns it; under `credit: summed` a
    token also answers with the derivative for itself, which for KL(pi||ref) by k1 is the classic penalty and for every other divergence
    what makes it exact. An advantage that whitens rescales that beta.
    """

    needs = frozenset({"values"})

    critic: Any = part("critic", "shared")
    advantage: Any = part("advantage", "gae")
    surrogate: Any = part("surrogate", "clipped")
    value_clip: float | None = 0.2
    """How far from its old value the critic is followed, in units of reward; null follows it anywhere."""
    risk: float | None = None
    """alpha of the Itakura-Saito value loss (2505.16925), per unit of reward: above 0 the critic is averse to risk, below 0 it seeks it.
    The certainty equivalent is that of the target, which is the paper's under `advantage: {name: gae, lam: 0}`. null: the squared loss."""
    value_coefficient: float = 0.1
    """Of the value loss, beside the policy's."""
    reduction: Any = part("reduction", "token")
    epochs: int = 4
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if self.value_coefficient <= 0 or (self.value_clip is not None and self.value_clip <= 0):
            raise ValueError("value_coefficient and value_clip must be positive")
        if self.risk is not None and self.value_clip not in (None, type(self).value_clip):
            raise ValueError("value_clip changes nothing with risk: the Itakura-Saito loss has no clip")

    def measures(self, batch: Columns) -> dict[str, float]:
        assert batch.returns is not None  # there is a critic
        return {"critic/explained_variance": explained_variance(batch.values, batch.returns).item()}

    def formula(self) -> str:
        return f"{formula(self.surrogate)} − {self.value_coefficient:g} L_V"

    def symbols(self) -> dict[str, str]:
        return super().symbols() | symbols(self.surrogate) | {"L_V": self._value_formula()}

    def _value_formula(self) -> str:
        if self.risk is not None:
            return summary(itakura_saito)
        return "(V − R)²/2" if self.value_clip is None else summary(clipped_squared)

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, moved = policy_loss(self.surrogate, ctx, advantages)
        value_loss, stats = self._value_loss(ctx)
        return loss + self.value_coefficient * value_loss, stats | moved | {"critic/loss": value_loss.detach()}

    def _value_loss(self, ctx: TokenContext) -> tuple[Tensor, dict[str, Tensor]]:
        values, old, returns = ctx.values, ctx.batch.values, ctx.batch.returns
        assert values is not None and old is not None and returns is not None  # there is a critic
        if self.risk is not None:
            return itakura_saito(values, returns, self.risk), {}
        loss, cut = clipped_squared(values, old, returns, self.value_clip or math.inf)
        return loss, {"critic/clipped": cut.float()}
