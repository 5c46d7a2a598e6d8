from jaxtyping import Float
from torch import Tensor

from align.divergences import Divergence
from align.estimators import Estimator, right_on_policy_only


class K2(Estimator):
    """k2 = (log pi/ref)^2 / 2 (Schulman 2020), as published: no importance ratio.

    As a loss its gradient is that of KL(pi||ref) on-policy only. Its value is biased (the functional u log^2 u / 2), and so is
    its gradient in the reward.
    """

    only_reverse_kl = True

    @property
    def published_value(self) -> str | None:
        return "E_pi[(log u)^2]/2 as published, not KL(pi||ref)"

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 0.5 * log_u**2

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 0.5 * log_u**2

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        if placement == "reward":
            return "k2 in the reward does not have the gradient of KL(pi||ref): use estimator: sampled or k1"
        return None if on_policy else right_on_policy_only("k2")
