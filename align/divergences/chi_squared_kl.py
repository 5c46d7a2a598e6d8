import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class ChiSquaredKl(Divergence):
    """chi2(pi||ref)/2 + KL(pi||ref), the regularizer of chiPO: f(u) = (u - 1)^2/2 + u log u.

    Huang et al. 2407.13399 (their link u + log u). The chi-squared part forbids large ratios, against over-optimisation; the KL part keeps
    every answer: f'(0+) = -inf. The gradient weight grows like u. float32 holds khat for |log u| < 88, bregman for log u < 44.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return 0.5 * torch.expm1(log_u) ** 2 + log_u * torch.exp(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u) + 1

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return torch.expm1(closed_forms.within(log_u, above=1.0)) + log_u

    def bregman(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, above=2.0)
        return 0.5 * torch.expm1(x) ** 2 + closed_forms.power_bregman(x, 0.0)

    def khat(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, below=1.0, above=1.0)
        return -0.5 * torch.expm1(x) * torch.expm1(-x) + closed_forms.power_khat(x, 0.0)
