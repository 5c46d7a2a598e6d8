from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood

LARGEST = 80.0
"""Of log p^alpha, for alpha < 0: e^80 is within float32."""


@dataclass(frozen=True)
class Power(Likelihood):
    """The power family (1 - p^alpha)/alpha of a token's probability p, alpha > -1; alpha = 0 is -log p.

    One family under three names: the probability-based objectives of "Beyond Log Likelihood" (Li et al. 2510.00526, the authors'
    fsdp_sft_trainer.py), the generalised cross entropy with q = alpha in (0, 1] (Zhang and Sabuncu 1805.07836; q = 0.7) and
    the comp-sum losses with tau = 1 + alpha (Mao et al. 2304.07288, "Cross-Entropy Loss Functions").

    Its gradient in the logit of the token is -p^alpha (1 - p): above 0 an unlikely token, perhaps a wrong label, is followed less than a
    likely one; below 0 more than by the likelihood. Where p^alpha exceeds e^80 the loss goes on along its tangent in log p. The minimiser
    over a label distribution t is softmax(log t/(1 - alpha)) for alpha < 1, and puts everything on the mode from 1 on. The gradient at
    alpha = 1 is that of `dft`.
    """

    alpha: float = 0.7

    def __post_init__(self):
        if not -1 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be above -1 and finite, not {self.alpha:g}: 0 is nll, 1 the probability itself")

    def formula(self) -> str:
        if self.alpha == 0:
            return "log π"
        if self.alpha == 1:
            return "π − 1"
        return f"(π^{self.alpha:g} − 1)/{self.alpha:g}"

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        if self.alpha == 0:
            return -ctx.logp
        # For alpha > 0 nothing overflows: log p <= 0.
        held = ctx.logp if self.alpha > 0 else ctx.logp.clamp_min(LARGEST / self.alpha)
        slope = torch.exp(self.alpha * held.detach())
        return -torch.expm1(self.alpha * held) / self.alpha - slope * (ctx.logp - held)
