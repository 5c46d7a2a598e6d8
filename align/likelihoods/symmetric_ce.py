from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood


@dataclass(frozen=True)
class SymmetricCe(Likelihood):
    """Symmetric cross entropy alpha CE + beta RCE against wrong labels: -alpha log p + beta |A| (1 - p) (Wang et al. 1908.06112).

    The reverse cross entropy -sum_k p_k log q_k of a one-hot q, with log 0 set to A, is |A| (1 - p). The parametrisation is the
    paper's (alpha, beta, A). The code of "Label Distributionally Robust Losses" (Zhu et al. 2112.14869) writes the same family as
    (1 - w) CE + w |A| (1 - p), which is alpha = 1 - w, beta = w. The gradient in the logit of the token is -(alpha + beta |A| p) (1 - p).
    """

    alpha: float = 0.1
    """Of the cross entropy. 0.1 beside beta 1 is common in code for CIFAR-10; for language models no value is published."""
    beta: float = 1.0
    """Of the reverse cross entropy."""
    log_zero: float = -4.0
    """A, what log 0 counts as."""

    def __post_init__(self):
        if self.alpha < 0 or self.beta < 0 or self.alpha + self.beta == 0:
            raise ValueError(f"alpha and beta must be at least 0 and not both 0, not {self.alpha:g} and {self.beta:g}")
        if not -float("inf") < self.log_zero < 0:
            raise ValueError(f"log_zero must be negative and finite, not {self.log_zero:g}")

    def formula(self) -> str:
        return f"{self.alpha:g} log π − {-self.beta * self.log_zero:g} (1 − π)"

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        return -self.alpha * ctx.logp + self.beta * self.log_zero * torch.expm1(ctx.logp)
