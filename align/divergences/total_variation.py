import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class TotalVariation(Divergence):
    """Total variation sum |pi - ref|/2: f(u) = |u - 1|/2.

    Go et al. 2302.08215. Symmetric and bounded by 1. The gradient weight is +1/2 where the policy is above the reference, -1/2 where
    below and 0 at it: the pull does not fade near the reference, nor grow away from it, so the optimum may drop an answer, and a preference
    link has nothing to learn from it.
    """

    full_support = False

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return 0.5 * torch.sign(log_u)

    def bregman(self, log_u: Tensor) -> Tensor:
        return 0.5 * torch.expm1(closed_forms.within(log_u, above=1.0)).abs()

    def khat(self, log_u: Tensor) -> Tensor:
        return 0.5 * torch.expm1(-closed_forms.within(log_u, below=1.0)).abs()
