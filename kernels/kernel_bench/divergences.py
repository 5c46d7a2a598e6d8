"""Divergences to measure: f as a user would write it, and the loss as one without kernels is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOG2 = math.log(2.0)


class ReverseKl:
    def f(self, log_u: Tensor) -> Tensor:
        return log_u * torch.exp(log_u)


class JensenShannon:
    """KL(pi||m)/2 + KL(ref||m)/2."""

    def f(self, log_u: Tensor) -> Tensor:
        log_m = torch.nn.functional.softplus(log_u) - LOG2
        return (torch.exp(log_u) * (log_u - log_m) - log_m) / 2


class Hellinger:
    """The alpha family at 1/2, up to a factor: 1 - sum sqrt(pi ref)."""

    def f(self, log_u: Tensor) -> Tensor:
        return (1 + torch.exp(log_u)) / 2 - torch.exp(log_u / 2)


class TotalVariation:
    def f(self, log_u: Tensor) -> Tensor:
        return torch.expm1(log_u).abs() / 2


class LeCam:
    """A divergence that no library has: sum (pi - ref)^2/(pi + ref)/2."""

    def f(self, log_u: Tensor) -> Tensor:
        return torch.expm1(log_u) ** 2 / (1 + torch.exp(log_u)) / 2


class Measured(NamedTuple):
    divergence: object
    written: Callable[[Tensor, Tensor], Tensor]
    """(log pi, log ref) [T, V] -> [T]: the usual code, differentiated by autograd."""


def _mixture(logp: Tensor, ref: Tensor) -> Tensor:
    middle = torch.logaddexp(logp, ref) - LOG2
    return (logp.exp() * (logp - middle) + ref.exp() * (ref - middle)).sum(-1) / 2


DIVERGENCES = {
    "reverse_kl": Measured(ReverseKl(), lambda logp, ref: (logp.exp() * (logp - ref)).sum(-1)),
    "jensen_shannon": Measured(JensenShannon(), _mixture),
    "hellinger": Measured(Hellinger(), lambda logp, ref: 1 - ((logp + ref) / 2).exp().sum(-1)),
    "total_variation": Measured(TotalVariation(), lambda logp, ref: (logp.exp() - ref.exp()).abs().sum(-1) / 2),
    "le_cam": Measured(LeCam(), lambda logp, ref: ((logp.exp() - ref.exp()) ** 2 / (logp.exp() + ref.exp())).sum(-1) / 2),
}
