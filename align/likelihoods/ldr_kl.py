import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood

FARTHEST = 80.0
"""Largest margin/lam, whose exponential float32 holds."""


@dataclass(frozen=True)
class LdrKl(Likelihood):
    """Label-distributionally robust loss, lam log sum_k exp(d_k/lam), d_k = margin [k != y] + s_k - s_y (LDR-KL, Zhu et al. 2112.14869).

    Up to the constant lam log K it is max_q <q, d> - lam KL(q||uniform): the worst distribution q over the K tokens, held near the uniform
    one. s are the logits over `sampling.temperature`. Without a margin it is lam times the cross entropy at temperature lam, and its
    minimiser over a label distribution t is softmax(lam log t); lam -> 0 gives the multi-class hinge. From r, the probability of the token
    at temperature lam, it is lam (margin/lam - log r + log(r exp(-margin/lam) + 1 - r)).

    The authors' code divides the scores by their mean absolute value first, which is left out here, as is the lam of each sample (ALDR).
    """

    lam: float = 0.5
    """Above 0; the paper tunes it, and this default is not from the paper."""
    margin: float = 0.0
    """Nats, at least 0: c of the paper, by how much the token's logit must exceed the others."""

    def __post_init__(self):
        if not (0 < self.lam < math.inf and 0 <= self.margin < math.inf):
            raise ValueError(f"lam must be positive and margin at least 0, both finite, not {self.lam:g} and {self.margin:g}")
        if self.margin > FARTHEST * self.lam:
            raise ValueError(f"margin must be at most {FARTHEST:g} lam, {FARTHEST * self.lam:g}, not {self.margin:g}: raise lam")
        if self.lam == 1 and self.margin == 0:
            raise ValueError("lam: 1 without a margin is the log-likelihood: use nll, or change lam or margin")

    @property
    def rescaled(self) -> float | None:
        return None if self.lam == 1 else self.lam

    def formula(self) -> str:
        return f"−{self.lam:g} log Σ_k exp(d_k/{self.lam:g})"

    def symbols(self) -> dict[str, str]:
        margin = f"{self.margin:g} [k ≠ y] + " if self.margin else ""
        return {"d_k": f"{margin}s_k − s_y, s the logits over sampling.temperature, y the demonstrated token, k every token"}

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        logp = ctx.logp if self.rescaled is None else ctx.rescaled_logp
        assert logp is not None  # the learner reads the head at `rescaled`
        far = self.margin / self.lam
        return self.lam * (far - logp + torch.log(torch.exp(logp - far) - torch.expm1(logp)))
