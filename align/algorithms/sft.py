from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from align.algorithms import Algorithm, trained_in_loss
from align.config.formulas import formula, symbols
from align.config.nodes import part
from align.config.parts import Setting
from align.config.returned import LOSS, Returned
from align.contexts import TokenContext


@dataclass(frozen=True)
class Sft(Algorithm[TokenContext, None]):
    """Supervised fine-tuning: a likelihood of the demonstrations' answers, by default its logarithm, in nats a token.

    Under `likelihood_weight: 0` the regularizers alone are learned from: distillation from a teacher on the demonstrations' states.
    """

    samples = False

    likelihood: Any = part("likelihood", "nll")
    likelihood_weight: float = 1.0
    """Of the likelihood, beside the regularizers."""
    reduction: Any = part("reduction", "token")
    loss_weighting: Any = part("loss_weighting", optional=True)

    def __post_init__(self):
        self.check()
        if self.likelihood_weight < 0:
            raise ValueError(f"likelihood_weight must be >= 0, not {self.likelihood_weight:g}")

    def refuse(self, setting: Setting) -> str | None:
        if self.likelihood_weight == 0 and not trained_in_loss(setting.recipe):
            return (
                "likelihood_weight: 0 leaves nothing to learn: raise it, or add a regularizer with placement: loss and a coefficient that "
                "is not always 0"
            )
        return None

    @property
    def rescaled(self) -> float | None:
        return self.likelihood.rescaled

    @property
    def row_fields(self) -> frozenset[str]:
        return self.likelihood.row_fields

    def formula(self) -> str:
        if self.likelihood_weight == 0:
            return "0"
        own = formula(self.likelihood)
        return own if self.likelihood_weight == 1 else f"{self.likelihood_weight:g} ({own})"

    def symbols(self) -> dict[str, str]:
        return symbols(self.likelihood) if self.likelihood_weight else {}

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        shown = replace(ctx, batch=ctx.batch.only(self.likelihood.needs, self.likelihood, "algorithm.likelihood"))
        losses = self.likelihood.losses(shown)
        Returned(self.likelihood, "losses", "algorithm.likelihood").numbers(losses, len(ctx.logp), LOSS)
        return self.likelihood_weight * losses, {}
