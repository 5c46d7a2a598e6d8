from torch import Tensor

from align.divergences import Divergence
from align.estimators import Estimator


class Abs(Estimator):
    """|log pi/ref|, as published (verl's `abs`): no importance ratio. Its mean is at least KL(pi||ref) and estimates no divergence.

    As a loss it descends twice the total variation: every token pulls alike, however far it is from the reference. In the reward it
    also takes from tokens the reference likes better. Kept to run others' settings.
    """

    only_reverse_kl = True

    def value(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        return log_u.abs()

    def coefficient(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        return log_u.sign()

    def reward(self, divergence: Divergence, log_u: Tensor) -> Tensor:
        return log_u.abs()
