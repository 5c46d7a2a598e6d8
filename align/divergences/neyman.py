import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class Neyman(Divergence):
    """Neyman's chi-squared chi2(ref||pi) = sum (ref - pi)^2/pi: f(u) = (u - 1)^2/u.

    Go et al. 2302.08215. Mass-covering like forward KL but stronger: grad_weight grows like (ref/pi)^2 on tokens the policy gives
    up, the heaviest tail of the room on sampled tokens. float32 holds bregman for |log u| < 88, khat and grad_weight for log u > -44.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return -torch.expm1(-2 * closed_forms.within(log_u, below=2.0))

    def bregman(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, below=1.0, above=1.0)
        return -torch.expm1(x) * torch.expm1(-x)

    def khat(self, log_u: Tensor) -> Tensor:
        return torch.expm1(-closed_forms.within(log_u, below=2.0)) ** 2
