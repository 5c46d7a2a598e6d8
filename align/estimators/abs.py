from jaxtyping import Float
from torch import Tensor

from align.divergences import Divergence
from align.estimators import Estimator


class Abs(Estimator):
    """|log pi/ref|, as published (verl's `abs`): no importance ratio. Its mean is at least KL(pi||ref) and estimates no divergence.

    As a loss it descends twice the total variation: every token pulls alike, however far it is from the reference. In the reward it
    also takes from tokens the reference likes better. Kept to run others' settings.
    """

    only_reverse_kl = True

    def value(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u.abs()

    def grad_weight(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u.sign()

    def reward(self, divergence: Divergence, log_u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return log_u.abs()

    def published_bias(self, *, placement: str, credit: str, on_policy: bool) -> str | None:
        if placement == "reward":
            return "abs in the reward does not have the gradient of KL(pi||ref): use estimator: sampled or k1"
        return (
            "abs in the loss descends twice the total variation, not KL(pi||ref). Use estimator: sampled, or say divergence: "
            "total_variation with estimator: sampled"
        )
