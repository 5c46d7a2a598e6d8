from dataclasses import dataclass

import torch
from torch import Tensor

from align.divergences import tsallis


@dataclass(frozen=True)
class Renyi(tsallis.Tsallis):
    """Renyi divergence R_q(pi||ref) = log(sum pi^q ref^(1-q))/(q - 1) = log(1 + (q - 1) D^q)/(q - 1) at each state, q > 0.

    Renyi 1961; van Erven and Harremoes 1206.3511. No f-divergence: its gradient is that of Tsallis' D^q over 1 + (q - 1) D^q, which one
    sampled token does not tell, so only `estimator: exact` measures it. q = 1 is KL(pi||ref), q = 2 log(1 + chi2(pi||ref)), q = 1/2
    twice the Bhattacharyya distance, q -> inf the log of the largest ratio. float32 holds it to 87/(q - 1) nats for q > 1, and for
    q < 1 to 16/(1 - q), where the two distributions have nothing left in common; beyond, it stays there.
    """

    def transform(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        excess = ((self.q - 1) * mean).clamp_min(torch.finfo(mean.dtype).eps - 1)
        return (torch.log1p(excess) / (self.q - 1) if self.q != 1 else mean), 1 / (1 + excess)
