import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class Jeffreys(Divergence):
    """Jeffreys divergence KL(pi||ref) + KL(ref||pi): f(u) = (u - 1) log u.

    Jeffreys, Proc. R. Soc. A 186 (1946). Mode-seeking and mass-covering at once, and symmetric; of forward KL it has the heavy tail on
    tokens the policy gives up.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return log_u - torch.expm1(-closed_forms.within(log_u, below=1.0))

    def bregman(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, above=1.0, factor=closed_forms.FACTOR)
        return x * torch.expm1(x)

    def khat(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, below=1.0, factor=closed_forms.FACTOR)
        return -x * torch.expm1(-x)
