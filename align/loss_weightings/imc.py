from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.ranges import Positive
from align.loss_weightings import EXAMPLE_LOSS, LossWeighting


@dataclass(frozen=True)
class Imc(LossWeighting):
    """Information-maximising curriculum: examples that the policy can represent weigh more (Blessing et al. 2303.15349).

    The weights maximise `<w, -l> + eta H(w)`: `w = softmax(-l/eta)`. With the likelihood `nll` and the reduction `sequence_sum`, -l is
    log pi of the whole answer, as in the paper's abstract, from which the weights are derived; its mixture of experts is not here. A
    large eta is the plain mean.
    """

    temperature: Positive = 1.0
    """eta, in units of the loss (nats)."""

    def formula(self) -> str:
        return f"S exp(−l/{self.temperature:g}) / Σ exp(−l/{self.temperature:g}), over the S examples of an update"

    def symbols(self) -> dict[str, str]:
        return EXAMPLE_LOSS

    def of_losses(self, losses: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        return len(losses) * torch.softmax(-losses / self.temperature, 0)
