"""From hidden states to log-prob, entropy and exact divergence of each token, without the [T, V] matrix.

The one door to the head. What stands behind it is `align_kernels`: chunks of tokens, and kernels made from the divergence itself
where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from align_kernels import Compared, Head, every_token, exact_divergence, linear_stats
from align_kernels import token_stats as logits_stats

__all__ = ["Compared", "Head", "TokenStats", "every_token", "exact_divergence", "logits_stats", "token_stats"]


class TokenStats(NamedTuple):
    logp: Float[Tensor, "T"]
    """log pi of the labels, nats, differentiable."""
    entropy: Float[Tensor, "T"]
    """Nats, detached."""
    exact: dict[str, Float[Tensor, "T"]]
    """By name: D_f(pi||ref) at each state, nats, differentiable in the policy."""
    ref_logp: dict[str, Float[Tensor, "T"]]
    """By name: log ref of the labels, nats."""


def token_stats(
    hidden: Float[Tensor, "T H"],
    head: Head,
    labels: Int64[Tensor, "T"],
    *,
    temperature: float = 1.0,
    compared: Mapping[str, Compared] | None = None,
    elements: int | None = None,
    backend: str = "auto",
) -> TokenStats:
    """Statistics of each token under `softmax(head(hidden)/temperature)`.

    Args: `compared`: the exact divergences wanted, by name; `elements`: logits that may exist at once (default by device);
    `backend`: auto, triton, compile or torch.
    """
    # Logits are float32 whether or not a divergence is asked: a log-prob must not depend on what else was.
    stats = linear_stats(
        hidden,
        head,
        labels,
        temperature=temperature,
        compared=compared,
        elements=elements,
        backend=backend,
        logits_dtype=torch.promote_types(hidden.dtype, torch.float32),
        ignore_index=None,
    )
    return TokenStats(logp=stats.logp, entropy=stats.entropy.detach(), exact=stats.div, ref_logp=stats.ref_logp)
