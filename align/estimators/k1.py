import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import Divergence
from align.estimators import Estimator


class K1(Estimator):
    """k1 = log pi/ref, unbiased for KL(pi||ref) in value (Schulman 2020), as published: no importance ratio.

    In the reward its gradient is that of KL(pi||ref). As a loss its expected gradient is zero: noise, no penalty
    (Tang and Munos 2506.09477).
    """

    only_reverse_kl = True

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.ones_like(log_u)

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        if placement == "loss":
            return "k1 in the loss has expected gradient zero: noise, no penalty. Use estimator: sampled, or placement: reward"
        if credit != "local" and not on_policy:
            return (
                "k1 in the reward, credited beyond its own token, has the gradient of KL(pi||ref) on-policy only: the surrogate weighs "
                "each token by its own ratio, not by that of the answer. Here a batch serves several updates. Use estimator: sampled"
            )
        return None
