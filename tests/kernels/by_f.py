"""Divergences as users write them, by f alone: logarithms of sums and their kin, in more than one spelling."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from align.divergences.jensen_shannon import JensenShannon


def _jensen_shannon(log_m: Tensor, x: Tensor) -> Tensor:
    """`log_m`: log(1 + u)."""
    return x * torch.exp(x) - (torch.exp(x) + 1) * (log_m - math.log(2))


BY_F = {
    "logsigmoid": JensenShannon().f,
    "logaddexp": lambda x: _jensen_shannon(torch.logaddexp(x, torch.zeros_like(x)), x),
    "log1p of exp(-|x|)": lambda x: _jensen_shannon(torch.clamp_min(x, 0) + torch.log1p(torch.exp(-x.abs())), x),
    "softplus with a threshold": lambda x: _jensen_shannon(softplus(x, 2.0, 10.0), x),
    "logsigmoid and abs": lambda x: JensenShannon().f(x) + 0.1 * torch.expm1(x).abs(),
    "logsigmoid, where and a minimum": lambda x: (
        torch.where(x < -0.7, 0.0, torch.expm1(x + 0.7)) - 2 * logsigmoid(x) - 0.5 * torch.minimum(torch.exp(x), torch.full_like(x, 2.0))
    ),
}
