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
        # log(2 sigmoid(x)) = log1p(tanh(x/2)): near 0 the two constants cancel and would leave float32 no digits.
        return torch.where(log_u.abs() < 1, torch.log1p(torch.tanh(log_u / 2)), LOG2 + logsigmoid(log_u))

    def generator(self, log_u: Tensor) -> Tensor:
        # f'(1) = 0, so this is f, with log((u + 1)/2) = -c(1/u) for the sake of the digits near u = 1.
        return torch.exp(log_u) * self.coefficient(log_u) + self.coefficient(-log_u)

    def value(self, log_u: Tensor) -> Tensor:
        return self.coefficient(log_u) + torch.exp(-log_u) * self.coefficient(-log_u)
