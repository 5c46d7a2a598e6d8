"""Small heads to compare, and what their statistics are by definition: float64, whole, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from align_kernels import Head

T, V, H = 13, 37, 5
KINDS = {
    "plain": {},
    "bias": {"bias": True},
    "granite": {"scale": 0.125},
    "gemma": {"softcap": 3.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 2.0},
}


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_head(kind: str = "plain", seed: int = 1, vocabulary: int = V, width: int = H) -> Head:
    keys = dict(KINDS[kind])
    bias = normal(vocabulary, seed=seed + 100) if keys.pop("bias", False) else None
    return Head(0.7 * normal(vocabulary, width, seed=seed), bias, **keys)


def direct_logits(hidden: Tensor, head: Head, temperature: float = 1.0) -> Tensor:
    """As transformers' models write it: projection, bias, scale, soft cap; then the sampler's temperature. Float64."""
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits / temperature


class Direct(NamedTuple):
    logp: Tensor
    entropy: Tensor
    div: dict[str, Tensor]


def direct(logits: Tensor, labels: Tensor, others: Mapping[str, tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]]) -> Direct:
    """Of logits [T, V]; `others`: by name the reference's logits and the divergence of two [T, V] tensors of probabilities."""
    p = torch.softmax(logits, -1)
    div = {name: of(p, torch.softmax(ref, -1)) for name, (ref, of) in others.items()}
    return Direct(p.gather(1, labels[:, None])[:, 0].log(), -(p * p.log()).sum(-1), div)


def assert_gradients_match(found: list[Tensor], expected: list[Tensor], leaves: list[Tensor], rtol: float, atol: float) -> None:
    """Of one random combination of the outputs, each with a weight of its own at each token."""
    totals = [sum((normal(len(t), seed=50 + i, dtype=t.dtype) * t).sum() for i, t in enumerate(outputs)) for outputs in (found, expected)]
    for one, other in zip(*(torch.autograd.grad(t, leaves, retain_graph=True) for t in totals), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def chi2(p: Tensor, q: Tensor) -> Tensor:
    return ((p - q) ** 2 / q).sum(-1)
