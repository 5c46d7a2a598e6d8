"""Divergences of this folder's own, each f as a user writes it beside its definition on probabilities; and operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DEVICE = "cuda"


class Case(NamedTuple):
    f: Callable[[Tensor], Tensor]
    """Of log u."""
    definition: Callable[[Tensor, Tensor], Tensor]
    """(p, q) [T, V] float64 -> [T]."""


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (p * (p / m).log() + q * (q / m).log()).sum(-1)


def huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 0.5, x * x / 2, 0.5 * (x.abs() - 0.25))


CASES = {
    "reverse_kl": Case(lambda x: x * torch.exp(x), lambda p, q: (p * (p / q).log()).sum(-1)),
    "forward_kl": Case(lambda x: -x, lambda p, q: (q * (q / p).log()).sum(-1)),
    "jensen_shannon": Case(
        lambda x: x * torch.exp(x) - (torch.exp(x) + 1) * (torch.nn.functional.softplus(x) - math.log(2)), jensen_shannon
    ),
    "hellinger": Case(lambda x: torch.expm1(x / 2) ** 2, lambda p, q: ((p.sqrt() - q.sqrt()) ** 2).sum(-1)),
    "total_variation": Case(lambda x: torch.expm1(x).abs() / 2, lambda p, q: (p - q).abs().sum(-1) / 2),
    "pearson": Case(lambda x: torch.expm1(x) ** 2, lambda p, q: ((p - q) ** 2 / q).sum(-1)),
    "le_cam": Case(lambda x: torch.expm1(x) ** 2 / (1 + torch.exp(x)), lambda p, q: ((p - q) ** 2 / (p + q)).sum(-1)),
    "huber": Case(lambda x: torch.exp(x) * huber(x), lambda p, q: (p * huber((p / q).log())).sum(-1)),
}


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE).to(dtype)


def of_logits(case: Case, z: Tensor, u: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log-prob, entropy and divergence by definition, in float64."""
    logp = torch.log_softmax(z.double(), -1)
    p, q = logp.exp(), torch.softmax(u.double(), -1)
    return logp.gather(1, labels[:, None])[:, 0], -(p * logp).sum(-1), case.definition(p, q)


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest error over the largest element."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()
