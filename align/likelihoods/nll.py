from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood


@dataclass(frozen=True)
class Nll(Likelihood):
    """The negative log-likelihood of each token, -log pi, in nats."""

    def formula(self) -> str:
        return "log π"

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        return -ctx.logp
