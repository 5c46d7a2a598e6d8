import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class ForwardKl(Divergence):
    """KL(ref||pi) = E_ref[-log u]: f(u) = -log u. Mass-covering; the reference's answers may not be given up.

    The gradient weight grows like ref/pi on tokens the policy gives up: heavy-tailed on sampled tokens.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return -log_u

    def f_prime(self, log_u: Tensor) -> Tensor:
        return -torch.exp(-closed_forms.within(log_u, below=1.0))

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return -torch.expm1(-closed_forms.within(log_u, below=1.0))

    def bregman(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_bregman(log_u, -1.0)

    def khat(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_khat(log_u, -1.0)
