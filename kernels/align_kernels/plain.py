"""Log-prob and entropy of a head whose logits fit into memory, where nothing is compared: torch's own two operations.

There is nothing to fuse then, and a log-prob has the bits of `torch.log_softmax`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align_kernels.call import Call
from align_kernels.gemm import HALF
from align_kernels.head import Head


def is_plain(call: Call, head: Head) -> bool:
    """Half-precision operands need the accumulator, which torch's linear layer rounds."""
    fits = len(call.labels) * len(head.weight) <= call.elements
    return fits and not call.compared and call.job.rows.name == "torch" and call.job.group is None and call.hidden.dtype not in HALF


def torch_statistics(call: Call, head: Head) -> tuple[Tensor, Tensor]:
    """log pi of the labels and H(pi), [T], differentiable."""
    logp = torch.log_softmax(head.logits(call.hidden, call.temperature), -1)
    index = (call.labels - call.job.first)[:, None]
    inside = (index >= 0) & (index < len(head.weight))
    own = logp.gather(1, index.clamp(0, len(head.weight) - 1))
    return torch.where(inside, own, -torch.inf)[:, 0], _Entropy.apply(logp)


class _Entropy(torch.autograd.Function):
    """-sum p log p of log-probs [T, V]. Most callers only look at it, so nothing is prepared for a gradient."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor) -> Tensor:
        ctx.save_for_backward(logp)
        # p log p is 0 where a logit is -inf, but 0 * -inf is not.
        return -(logp.exp() * logp.clamp_min(torch.finfo(logp.dtype).min)).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch takes named gradients
        ctx: Any, upstream: Tensor
    ) -> Tensor:
        (logp,) = ctx.saved_tensors
        return -upstream[:, None] * logp.exp() * (1 + logp.masked_fill(logp == -torch.inf, 0.0))
