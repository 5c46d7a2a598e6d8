import math

import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


class K2Functional(Divergence):
    """E_pi[(log u)^2]/2: f(u) = u (log u)^2/2, what the mean of Schulman's k2 is. No true f-divergence: f is not convex for u < 1/e.

    joschu.net/blog/kl-approx.html, 2020. It is zero at the reference alone and equals KL(pi||ref) to second order there, but below
    u = e^-2 grad_weight (log u)^2/2 + log u is positive: a token the policy has nearly given up is pushed further down. The
    estimator k2 is another thing: its loss has the gradient of KL(pi||ref).
    """

    full_support = False
    convex = False

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return log_u * (0.5 * log_u + 1)

    def bregman(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, above=1.0, factor=math.log(torch.finfo(log_u.dtype).max) ** 2 / 2)
        # From the left, since (log u)^2 overflows where u has vanished.
        return 0.5 * torch.exp(x) * x * x

    def khat(self, log_u: Tensor) -> Tensor:
        return 0.5 * log_u * log_u
