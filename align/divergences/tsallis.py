from dataclasses import dataclass

import torch
from torch import Tensor

from align.divergences import Divergence


@dataclass(frozen=True)
class Tsallis(Divergence):
    """Tsallis KL D^q(pi||ref) = (sum pi^q ref^(1-q) - 1)/(q - 1): f(u) = (u^q - u)/(q - 1), q > 0.

    Zhu et al. 2301.11476, equation (4) in the convention D^q = <pi, ln'_q u>. q = 1 is KL(pi||ref), q = 2 Pearson's chi-squared,
    q = 1/2 the squared Hellinger distance (sum (sqrt pi - sqrt ref)^2). q > 1 forbids large ratios but lets the optimum drop an answer;
    q < 1 never does. Useful range [0.5, 2].
    """

    q: float = 2.0

    def __post_init__(self):
        if self.q <= 0:
            raise ValueError(f"q must be positive, not {self.q}: f is convex in u with f(1) = 0 only there")

    @property
    def full_support(self) -> bool:
        return self.q <= 1

    @property
    def _q(self) -> float:
        # The q -> 1 limit is taken by expansion through 1 +- 1e-4: nearer, (u^q - u)/(q - 1) loses digits to cancellation.
        return 1.0 if abs(self.q - 1) < 1e-4 else self.q

    def f(self, log_u: Tensor) -> Tensor:
        # u ln'_q(u), its powers arranged so that none overflows where the product does not.
        distance = abs(self._q - 1)
        power = torch.exp(min(self._q, 1.0) * log_u)
        return power * (torch.expm1(distance * log_u) / distance if distance else log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.coefficient(log_u) + 1

    def coefficient(self, log_u: Tensor) -> Tensor:
        return self._q * self._log_q(log_u)

    def generator(self, log_u: Tensor) -> Tensor:
        return self.f(log_u) - torch.expm1(log_u)

    def value(self, log_u: Tensor) -> Tensor:
        return self._log_q(log_u) + torch.expm1(-log_u)

    def _log_q(self, log_u: Tensor) -> Tensor:
        """ln'_q(u) = (u^(q-1) - 1)/(q - 1), log u at q = 1."""
        return log_u if self._q == 1 else torch.expm1((self._q - 1) * log_u) / (self._q - 1)
