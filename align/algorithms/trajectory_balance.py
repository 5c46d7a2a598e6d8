from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.algorithms._implicit_reward import ImplicitReward


@dataclass(frozen=True)
class TrajectoryBalance(ImplicitReward):
    """Trajectory balance of whole answers, `(h + beta log Z)^2/2`, the mean of the group as log Z (TBA, Bartoldson et al. 2503.18929).

    Malkin et al. 2201.13259 learn log Z, and square without the half. With the mean of k answers in its place the gradient is (k - 1)/k
    of that of `log_variance`.
    """

    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return "−½ (h + β log Z)², β log Z minus the mean of h over the answers of a prompt"

    def of_deviations(self, squared: Float[Tensor, "S"], size: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        return 0.5 * squared
