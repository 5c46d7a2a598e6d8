import torch
from torch import Tensor

from align.divergences import Divergence


class Neyman(Divergence):
    """Neyman's chi-squared chi2(ref||pi) = sum (ref - pi)^2/pi: f(u) = (u - 1)^2/u.

    Go et al. 2302.08215. Mass-covering like forward KL but stronger: the coefficient grows like (ref/pi)^2 on tokens the policy gives
    up, the heaviest tail of the room on sampled tokens. float32 holds the generator for |log u| < 88, the value and the coefficient for
    log u > -44.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return self.generator(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.coefficient(log_u)

    def coefficient(self, log_u: Tensor) -> Tensor:
        return -torch.expm1(-2 * log_u)

    def generator(self, log_u: Tensor) -> Tensor:
        return -torch.expm1(log_u) * torch.expm1(-log_u)

    def value(self, log_u: Tensor) -> Tensor:
        return torch.expm1(-log_u) ** 2
