"""Log-prob, entropy and exact divergences of each token, without the [tokens, vocabulary] matrix; for any divergence.

`linear_stats` (and `linear_token_stats`, its form for one reference) goes from hidden states to [T] statistics, differentiable;
`token_stats` does so from logits. Backends: `triton` (kernels generated from the divergence's torch function), `compile` (torch.compile
of the same passes) and `torch`, which runs everywhere and defines what the others must give.
"""

import importlib
from typing import Any

from align_kernels.flat import TokenStats, linear_token_stats, token_stats
from align_kernels.head import Compared, Head, every_token
from align_kernels.linear import LinearStats, linear_stats
from align_kernels.row import RowStats, merge
from align_kernels.terms import OfRows, exact_divergence, sampled

_OF_CODEGEN = ("DivergenceError", "Elementwise", "Fused", "fused")
"""Loaded when asked for: a closed form on the torch backend needs no tracer, and importing torch's takes a second."""


def __getattr__(name: str) -> Any:
    if name in _OF_CODEGEN:
        return getattr(importlib.import_module("align_kernels.codegen"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Compared",
    "DivergenceError",
    "Elementwise",
    "Fused",
    "Head",
    "LinearStats",
    "OfRows",
    "RowStats",
    "TokenStats",
    "every_token",
    "exact_divergence",
    "fused",
    "linear_stats",
    "linear_token_stats",
    "merge",
    "sampled",
    "token_stats",
]
