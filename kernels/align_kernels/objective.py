"""A whole per-token objective in one sweep: while a chunk's logits exist its gradient is taken, so nothing is computed twice.

Against `linear_stats` this saves the second pair of head GEMMs (4 in place of 6 with one reference), for the price of a float32 buffer
of the head's gradient. What it needs is that the objective is a sum over tokens of a function of their own statistics; one that
looks at whole answers (a sequence's ratio) takes `linear_stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from align_kernels import gemm
from align_kernels.chunk import Weights
from align_kernels.head import Compared, Head
from align_kernels.linear import LinearStats
from align_kernels.parallel import summed
from align_kernels.prepared import Call, prepared

Objective = Callable[[LinearStats, Tensor], Tensor]
"""(statistics of some tokens, their positions int64 [C]) -> what each adds to the loss [C], differentiable in the statistics."""


def weighted(logp: Tensor | None = None, entropy: Tensor | None = None, div: Mapping[str, Tensor] | None = None) -> Objective:
    """The objective whose weights [T] are known beforehand: `sum logp_t log pi_t + entropy_t H_t + sum_i div_i,t D_i,t`."""

    def objective(stats: LinearStats, at: Tensor) -> Tensor:
        pairs = [(logp, stats.logp), (entropy, stats.entropy), *((w, stats.div[name]) for name, w in (div or {}).items())]
        return sum(w[at] * value for w, value in pairs if w is not None)

    return objective


def linear_objective(
    hidden: Tensor, head: Head, labels: Tensor, objective: Objective, *, temperature: float = 1.0,
    compared: Mapping[str, Compared] | None = None, elements: int | None = None, backend: str = "auto",
    logits_dtype: torch.dtype | None = None, ignore_index: int | None = -100, group: Any = None, first: int = 0,
) -> tuple[Tensor, LinearStats]:
    """The sum of `objective` over the tokens, differentiable in hidden, weight and bias, and the statistics, detached.

    Arguments as `linear_stats`. `objective` is a torch function of [C] tensors; autograd gives what flows back into each statistic, so
    it must not depend on anything else that is trained. Raises ValueError as `linear_stats` does.
    """
    names = tuple(compared or {})
    call = prepared(hidden, head, labels, temperature, compared or {}, elements, backend, logits_dtype, ignore_index, group, first)
    total, logp, entropy, *rest = _Objective.apply(call, names, objective, call.hidden, head.weight, head.bias)
    logp, entropy, *rest = (call.spread(t) for t in (logp, entropy, *rest))
    asked = [name for name, c in (compared or {}).items() if c.divergence is not None]
    return total, LinearStats(logp, entropy, dict(zip(names, rest[: len(names)], strict=True)),
                              dict(zip(asked, rest[len(names) :], strict=True)))


class _Objective(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, names: tuple[str, ...], objective: Objective, hidden: Tensor, weight: Tensor, bias: Tensor | None
                ) -> tuple[Tensor, ...]:
        gradient = _Gradient(hidden, weight, bias, ctx.needs_input_grad[3:])
        share = call.elements // (1 + len(call.compared))
        rows, total, parts = max(1, share // len(weight)), 0.0, []
        positions = torch.arange(call.tokens, device=hidden.device) if call.kept is None else call.kept
        for i in range(0, max(1, len(call.labels)), rows):
            chosen = slice(i, i + rows)
            z = gemm.logits(hidden[chosen], weight, bias, call.dtype, share)
            us = [gemm.logits(c.hidden[chosen], c.head.weight, c.head.bias, call.dtype, share) for c in call.compared]
            at = call.job.statistics(z, us, call.labels[chosen])
            stats = _stats(names, at)
            value, weights = _weights(objective, stats, positions[chosen])
            total = total + value
            parts.append([stats.logp, stats.entropy, *stats.ref_logp.values(), *stats.div.values()])
            if any(ctx.needs_input_grad) and any(w is not None for w in (weights.logp, weights.entropy, *weights.div)):
                div = iter(weights.div)
                weights = weights._replace(div=[next(div) if r.div is not None else None for r in at.references])
                gradient.add(chosen, call.job.gradient(z, us, call.labels[chosen], at, weights, first=call.job.first, dtype=hidden.dtype))
        ctx.save_for_backward(*gradient.finished(call.job.group))
        tokens = [torch.cat(t) for t in zip(*parts, strict=True)]
        ctx.mark_non_differentiable(*tokens)
        return (total, *tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(None if g is None else g * upstream.to(g.dtype) for g in ctx.saved_tensors))


def _stats(names: tuple[str, ...], at: Any) -> LinearStats:
    named = dict(zip(names, at.references, strict=True))
    return LinearStats(at.logp, at.entropy, {n: r.logp for n, r in named.items()},
                       {n: r.div for n, r in named.items() if r.div is not None})


def _weights(objective: Objective, stats: LinearStats, positions: Tensor) -> tuple[Tensor, Weights]:
    leaves = [t.detach().requires_grad_() for t in (stats.logp, stats.entropy, *stats.div.values())]
    with torch.enable_grad():
        values = objective(stats._replace(logp=leaves[0], entropy=leaves[1], div=dict(zip(stats.div, leaves[2:], strict=True))), positions)
        if values.shape != positions.shape:
            raise ValueError(f"the objective must give one number for each token, {list(positions.shape)}, not {list(values.shape)}")
        total = values.sum()
        logp, entropy, *div = torch.autograd.grad(total, leaves, allow_unused=True)
    return total.detach(), Weights(logp, entropy, div)


class _Gradient:
    """The gradients of hidden, weight and bias, a chunk of tokens at a time; the last two summed in the accumulator's type."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]):
        self._hidden, self._weight = hidden, weight
        wide = gemm.accumulator(hidden.dtype)
        self.of_hidden = torch.zeros_like(hidden, dtype=wide) if wanted[0] else None
        self.of_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        self.of_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None

    def add(self, chosen: slice, of_logits: Tensor) -> None:
        if self.of_hidden is not None:
            gemm.product(of_logits, self._weight, out=self.of_hidden[chosen])
        if self.of_weight is not None:
            gemm.product(of_logits.T, self._hidden[chosen], out=self.of_weight, add=True)
        if self.of_bias is not None:
            self.of_bias += of_logits.sum(0, dtype=self.of_bias.dtype)

    def finished(self, group: Any) -> list[Tensor | None]:
        if self.of_hidden is not None:
            (self.of_hidden,) = summed((self.of_hidden,), group)
        return [None if g is None else g.to(self._hidden.dtype) for g in (self.of_hidden, self.of_weight, self.of_bias)]
