from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.algorithms._implicit_reward import ImplicitReward


@dataclass(frozen=True)
class Copg(ImplicitReward):
    """Contrastive policy gradient (Flet-Berliac et al. 2406.19185): squared differences of `R - beta log pi/ref` within a group.

    Of k answers `sum_{i>j} (h_i - h_j)^2/(k - 1)`, as Cohere's Command A sums the pairs (2504.00698); 2k times `log_variance`, and of
    two answers the paper's loss. IPO is the case of a reward that says only which answer is better.
    """

    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return "−Σ_{i>j} (h_i − h_j)²/(k − 1), over the k answers of a prompt"

    def of_deviations(self, squared: Float[Tensor, "S"], size: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        # sum_{i>j} (h_i - h_j)^2 is k times the sum of the squared deviations.
        return squared * size * size / (size - 1).clamp_min(1)
