import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class ReverseKl(Divergence):
    """KL(pi||ref) = E_pi[log u]: f(u) = u log u. Mode-seeking; the KL of RLHF.

    `khat` is Schulman's k3 (joschu.net/blog/kl-approx.html, 2020), `grad_weight` is k1.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return log_u * torch.exp(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return log_u + 1

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return log_u

    def bregman(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_bregman(log_u, 0.0)

    def khat(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_khat(log_u, 0.0)
