import math
from dataclasses import dataclass

import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class Tsallis(Divergence):
    """Tsallis KL D^q(pi||ref) = (sum pi^q ref^(1-q) - 1)/(q - 1): f(u) = (u^q - u)/(q - 1), q > 0.

    Zhu et al. 2301.11476, equation (4) in the convention D^q = <pi, ln'_q u>. q = 1 is KL(pi||ref), q = 2 Pearson's chi-squared,
    q = 1/2 the squared Hellinger distance (sum (sqrt pi - sqrt ref)^2). q > 1 forbids large ratios but lets the optimum drop an answer;
    q < 1 never does. Useful range [0.5, 2]; float32 holds khat for log u < 88/(q - 1), bregman for log u < 88/q.
    """

    q: float = 2.0

    def __post_init__(self):
        if not 0 < self.q < math.inf:
            raise ValueError(f"q must be positive, not {self.q}: f is convex in u with f(1) = 0 only there")

    @property
    def full_support(self) -> bool:
        return self.q <= 1

    def f(self, log_u: Tensor) -> Tensor:
        # u ln'_q(u), its powers arranged so that none overflows where the product does not.
        return torch.exp(min(self.q, 1.0) * log_u) * closed_forms.power_slope(log_u, abs(self.q - 1))

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u) + 1

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return self.q * closed_forms.power_slope(log_u, self.q - 1)

    def bregman(self, log_u: Tensor) -> Tensor:
        return self.q * closed_forms.power_bregman(log_u, self.q - 1)

    def khat(self, log_u: Tensor) -> Tensor:
        return self.q * closed_forms.power_khat(log_u, self.q - 1)
