import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class Hellinger(Divergence):
    """Squared Hellinger distance sum (sqrt pi - sqrt ref)^2: f(u) = (sqrt u - 1)^2.

    Symmetric and bounded by 2 (some authors halve it). Half-way between the two KLs: Tsallis with q = 1/2, half of alpha = 1/2.
    The gradient weight is at most 1 and falls like -sqrt(ref/pi), so no answer is dropped.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return torch.expm1(log_u / 2) ** 2

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return -torch.expm1(-closed_forms.within(log_u, below=0.5) / 2)

    def bregman(self, log_u: Tensor) -> Tensor:
        return torch.expm1(closed_forms.within(log_u, above=1.0) / 2) ** 2

    def khat(self, log_u: Tensor) -> Tensor:
        return torch.expm1(-closed_forms.within(log_u, below=1.0) / 2) ** 2
