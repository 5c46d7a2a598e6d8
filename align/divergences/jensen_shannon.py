import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from align.divergences import Divergence

LOG2 = math.log(2.0)


class JensenShannon(Divergence):
    """Twice the Jensen-Shannon divergence, KL(pi||m) + KL(ref||m) with m = (pi + ref)/2, as f-DPO and f-DPG define it.

    f(u) = u log u - (u + 1) log((u + 1)/2) (Wang et al. 2309.16240, table 1). Bounded by 2 log 2, coefficient <= log 2.
    """

    def f(self, log_u: Tensor) -> Tensor:
        return log_u * torch.exp(log_u) - (torch.exp(log_u) + 1) * (softplus(log_u) - LOG2)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.coefficient(log_u)

    def coefficient(self, log_u: Tensor) -> Tensor:
        return LOG2 + logsigmoid(log_u)

    def generator(self, log_u: Tensor) -> Tensor:
        # f'(1) = 0. u log u - u softplus(log u) = u logsigmoid(log u) keeps the large-u end finite until u itself overflows.
        return torch.exp(log_u) * (logsigmoid(log_u) + LOG2) - (softplus(log_u) - LOG2)

    def value(self, log_u: Tensor) -> Tensor:
        return logsigmoid(log_u) + LOG2 - torch.exp(-log_u) * (softplus(log_u) - LOG2)
