import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.core import closed_forms
from align.divergences import Divergence

LOG2 = math.log(2.0)


class JensenShannon(Divergence):
    """Twice the Jensen-Shannon divergence, KL(pi||m) + KL(ref||m) with m = (pi + ref)/2, as f-DPO and f-DPG define it.

    f(u) = u log u - (u + 1) log((u + 1)/2) (Wang et al. 2309.16240, table 1). Bounded by 2 log 2, c <= log 2.
    `generalised_jsd` is the form with unequal weights; its value at b = 1/2 is half of this one.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return log_u * torch.exp(log_u) + (torch.exp(log_u) + 1) * (logsigmoid(-log_u) + LOG2)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        # log(2 sigmoid(x)) = log1p(tanh(x/2)): near 0 the two constants cancel and would leave float32 no digits.
        # Clamped, for far out the branch not taken is -inf and its gradient NaN.
        near = torch.log1p(torch.tanh(log_u.clamp(-1, 1) / 2))
        return torch.where(log_u.abs() < 1, near, LOG2 + logsigmoid(log_u))

    def bregman(self, log_u: Tensor) -> Tensor:
        x = closed_forms.within(log_u, above=1.0)
        # f'(1) = 0, so this is f. With h = log(u)/2 it is (u + 1)(h tanh h - log cosh h), log cosh h = -log(1 - tanh^2 h)/2; far from
        # u = 1 that overflows, and log(u/m) and log(1/m), m = (u + 1)/2, are taken apart.
        close = x.clamp(-1, 1)
        half, tanh = close / 2, torch.tanh(close / 2)
        near = (torch.exp(close) + 1) * (half * tanh + torch.log1p(-tanh * tanh) / 2)
        far = torch.exp(x) * (LOG2 + logsigmoid(x)) + LOG2 + logsigmoid(-x)
        return torch.where(log_u.abs() < 1, near, far)

    def khat(self, log_u: Tensor) -> Tensor:
        return self.bregman(-log_u)
