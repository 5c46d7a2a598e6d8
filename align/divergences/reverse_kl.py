import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class ReverseKl(Divergence):
    """KL(pi||ref) = E_pi[log u]: f(u) = u log u. Mode-seeking; the KL of RLHF.

    `value` is Schulman's k3 (joschu.net/blog/kl-approx.html, 2020), `coefficient` is k1.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return log_u * torch.exp(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return log_u + 1

    def coefficient(self, log_u: Tensor) -> Tensor:
        return log_u

    def generator(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_generator(log_u, 0.0)

    def value(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_value(log_u, 0.0)
