import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class Pearson(Divergence):
    """Pearson's chi-squared chi2(pi||ref) = sum (pi - ref)^2/ref: f(u) = (u - 1)^2.

    Go et al. 2302.08215. It forbids large ratios, growing with u where KL grows with log u, but f'(0) = -2 is finite: the optimum may
    drop an answer. float32 holds khat for |log u| < 88, bregman for log u < 44.
    """

    full_support = False

    def f(self, log_u: Tensor) -> Tensor:
        return torch.expm1(log_u) ** 2

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return 2 * torch.expm1(closed_forms.within(log_u, above=1.0, factor=2.0))

    def bregman(self, log_u: Tensor) -> Tensor:
        return torch.expm1(closed_forms.within(log_u, above=2.0)) ** 2

    def khat(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, below=1.0, above=1.0)
        return -torch.expm1(x) * torch.expm1(-x)
