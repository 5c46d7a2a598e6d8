from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.ranges import Positive
from align.loss_weightings import EXAMPLE_LOSS, LossWeighting


@dataclass(frozen=True)
class KlDro(LossWeighting):
    """Distributionally robust: tau log mean exp(l/tau), the largest mean loss under other weights of the batch, less tau KL to uniform.

    `max_w <w, l> - tau KL(w||1/S)` has the maximiser `w = softmax(l/tau)`, with which the examples are weighed: the gradient of the
    objective is exactly theirs. Hard examples weigh more; a large tau is the plain mean, a small one the largest loss. The duality is
    Gibbs's; for label-wise losses see Zhu et al. 2112.14869, "Label Distributionally Robust Losses".
    """

    temperature: Positive = 1.0
    """tau, in units of the loss (nats)."""

    def formula(self) -> str:
        return f"S exp(l/{self.temperature:g}) / Σ exp(l/{self.temperature:g}), over the S examples of an update"

    def symbols(self) -> dict[str, str]:
        return EXAMPLE_LOSS

    def of_losses(self, losses: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        return len(losses) * torch.softmax(losses / self.temperature, 0)
