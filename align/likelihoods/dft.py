from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.contexts import TokenContext
from align.likelihoods import Likelihood


@dataclass(frozen=True)
class Dft(Likelihood):
    """Dynamic fine-tuning, -sg(p) log p: the log-likelihood weighed by the token's own probability (Wu et al. 2508.05629; TRL's `dft`).

    The gradient, -p (1 - p) in the logit of the token, is that of `power` with alpha: 1, which is 1 - p; only the logged value differs.
    """

    def formula(self) -> str:
        return "sg(π) log π"

    def symbols(self) -> dict[str, str]:
        return {"sg": "its argument without a gradient"}

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        return -torch.exp(ctx.logp.detach()) * ctx.logp
