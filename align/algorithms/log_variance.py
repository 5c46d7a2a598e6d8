from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.algorithms._implicit_reward import ImplicitReward


@dataclass(frozen=True)
class LogVariance(ImplicitReward):
    """Half the unbiased variance over the group of `beta log pi/ref - R` (log-variance, VarGrad: Richter et al. 2010.10436).

    On-policy its gradient is `-beta` times that of `E[R] - beta KL(pi||ref)`: REINFORCE with the leave-one-out baseline of R less the
    penalty. The divergence of the link may be any f (not in the paper); the optimum is then that of `E[R] - beta D_f`.
    """

    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return "−½ Var(h), the unbiased variance over the answers of a prompt"

    def of_deviations(self, squared: Float[Tensor, "S"], size: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        return 0.5 * squared * size / (size - 1).clamp_min(1)
