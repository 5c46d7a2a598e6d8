from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import Algorithm, policy_loss
from align.config.formulas import formula, symbols
from align.config.nodes import part
from align.contexts import TokenContext


@dataclass(frozen=True)
class Grpo(Algorithm[TokenContext, Tensor]):
    """Group-relative policy optimisation (Shao et al. 2402.03300): the group is the baseline. Advantage x surrogate x reduction.

    The paper's reduction is `sequence_mean`; the default is the token mean of DAPO, which weighs long and short answers by their tokens.
    Its relatives are recipes: Dr. GRPO is `advantage: group_centred, reduction: constant`, RLOO `advantage: leave_one_out, surrogate:
    reinforce`, DAPO `surrogate: {clip_high: 0.28}`. The KL term of the paper is a regularizer here: `{estimator: k3, allow_biased: true}`
    is the published one.
    """

    advantage: Any = part("advantage", "group_standardised")
    surrogate: Any = part("surrogate", "clipped")
    reduction: Any = part("reduction", "token")
    loss_weighting: Any = part("loss_weighting", optional=True)
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return formula(self.surrogate)

    def symbols(self) -> dict[str, str]:
        return super().symbols() | symbols(self.surrogate)

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return policy_loss(self.surrogate, ctx, advantages)
