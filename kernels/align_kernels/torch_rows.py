"""The three passes over rows of logits in plain torch, for any floating type: what the Triton kernels must equal.

T rows of V logits; `z` the policy's, `ref_z` the reference's (or None); the vocabulary may be a shard that starts at the global id `first`.
A logit counts as `x = s * softcap * tanh(z / softcap)`: `s` is the scale over the temperature. Results are float32 (float64 for float64
logits), [T] unless said otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from align_kernels.row import RowStats
from align_kernels.terms import outcome_pulls, outcome_terms

CACHED = 1 << 16
"""Logits that a CPU works on at once: a dozen temporaries of them stay in its cache."""


def in_cache(function: Callable) -> Callable:
    """On CPU a few rows at a time: every positional argument is [T, ...] or None, and so is `out`."""

    @functools.wraps(function)
    def call(z: Tensor, *tensors: Tensor | None, out: Tensor | None = None, **keywords: Any) -> Any:
        count = max(1, CACHED // z.shape[1])
        parts = []
        for i in range(0, max(1, len(z)), len(z) + 1 if z.is_cuda else count):
            chosen = slice(i, None if z.is_cuda else i + count)
            into = {} if out is None else {"out": out[chosen]}
            parts.append(function(z[chosen], *(None if t is None else t[chosen] for t in tensors), **keywords, **into))
        if out is not None:
            return out
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        joined = tuple(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True))
        return RowStats._make(joined) if isinstance(parts[0], RowStats) else joined

    return call


@in_cache
def row_stats(
    z: Tensor,
    ref_z: Tensor | None,
    labels: Tensor,
    *,
    scale: float,
    ref_scale: float = 1.0,
    first: int = 0,
    softcap: float | None = None,
    ref_softcap: float | None = None,
) -> RowStats:
    """Pass 1: maxima and sums of exponentials. z, ref_z [T, V]; labels int64 [T], global ids."""
    x = scaled(z, scale, softcap)
    m_p, s_p, e, fall = _sums(x)
    e_p = (e * fall.clamp_min(torch.finfo(x.dtype).min)).sum(-1)
    z_y = _at_label(x, labels, first)
    if ref_z is None:
        return RowStats(m_p, s_p, e_p, z_y, None, None, None)
    y = scaled(ref_z, ref_scale, ref_softcap)
    m_q, s_q, _, _ = _sums(y)
    return RowStats(m_p, s_p, e_p, z_y, m_q, s_q, _at_label(y, labels, first))


@in_cache
def row_sum(
    z: Tensor,
    ref_z: Tensor,
    lse_p: Tensor,
    lse_q: Tensor,
    *,
    scale: float,
    ref_scale: float,
    fn: Any,
    softcap: float | None = None,
    ref_softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Pass 2, over this shard: the sum of the divergence's terms before its transform, and pull_sum = sum pi c."""
    x, y = scaled(z, scale, softcap), scaled(ref_z, ref_scale, ref_softcap)
    values, pulls = outcome_terms(fn, log_prob(x, lse_p), log_prob(y, lse_q), _log_ratio(x, y, lse_p, lse_q))
    return values.sum(-1), pulls.sum(-1)


@in_cache
def row_grad(
    z: Tensor,
    ref_z: Tensor | None,
    lse_p: Tensor,
    lse_q: Tensor | None,
    labels: Tensor | None,
    entropy: Tensor | None,
    pull_sum: Tensor | None,
    w_logp: Tensor | None,
    w_entropy: Tensor | None,
    w_div: Tensor | None,
    *,
    scale: float,
    ref_scale: float = 1.0,
    first: int = 0,
    fn: Any = None,
    softcap: float | None = None,
    ref_softcap: float | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Backward: the gradient wrt the unscaled logits, [T, V] in the type of `out`.

    `w_div (pi c - pi pull_sum) + w_logp (1[label] - pi) - w_entropy pi (log pi + entropy)`, times the derivative of the scaling. The
    weights are the upstream gradients [T] (None: no such term, and none of what it alone needs); `w_div` includes the slope of the
    transform. A label outside the shard keeps its -pi term.
    """
    x = scaled(z, scale, softcap)
    logp = log_prob(x, lse_p)
    of_pi = 0.0  # what every term takes from pi, [T, 1] or [T, V]
    if w_logp is not None:
        of_pi = w_logp[:, None]
    if w_div is not None:
        assert pull_sum is not None
        of_pi = of_pi + (w_div * pull_sum)[:, None]
    if w_entropy is not None:
        assert entropy is not None
        # pi log pi is 0 where a logit is -inf, but 0 * -inf is not.
        of_pi = of_pi + w_entropy[:, None] * (logp.masked_fill(logp == -torch.inf, 0.0) + entropy[:, None])
    grad = logp.exp().mul_(-of_pi)
    if w_div is not None:
        assert ref_z is not None and lse_q is not None
        y = scaled(ref_z, ref_scale, ref_softcap)
        grad += w_div[:, None] * outcome_pulls(fn, logp, log_prob(y, lse_q), _log_ratio(x, y, lse_p, lse_q))
    if w_logp is not None:
        assert labels is not None
        index, inside = _column(labels, first, z.shape[1])
        grad.scatter_add_(1, index, torch.where(inside, w_logp, 0.0)[:, None])
    grad = unscaled(grad, x, scale, softcap)
    if out is None:
        return grad
    return out.add_(grad) if accumulate else out.copy_(grad)


def scaled(z: Tensor, s: float, softcap: float | None) -> Tensor:
    """x of the logits z, [T, V]."""
    x = z if z.dtype == torch.float64 else z.float()
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    return x if s == 1.0 else x * s


def log_prob(x: Tensor, lse: Tensor) -> Tensor:
    """x - lse, [T, V] in the type of x, to the digits of the difference where lse [T] has more of them than x."""
    high = lse.to(x.dtype)
    logp = x - high[:, None]
    return logp if lse.dtype == x.dtype else logp.sub_((lse - high).to(x.dtype)[:, None])


def unscaled(grad: Tensor, x: Tensor, s: float, softcap: float | None) -> Tensor:
    """From the gradient wrt x to that wrt the logits z, in place."""
    if s != 1.0:
        grad *= s
    if softcap is not None:
        grad *= 1 - (x / (s * softcap)).square()
    return grad


def _sums(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    top = x.amax(-1)
    fall = x - torch.where(torch.isneginf(top), 0.0, top)[:, None]
    e = fall.exp()
    return top, e.sum(-1, dtype=torch.float64), e, fall


def _column(labels: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    local = labels - first
    return local.clamp(0, width - 1)[:, None], (local >= 0) & (local < width)


def _at_label(x: Tensor, labels: Tensor, first: int) -> Tensor:
    index, inside = _column(labels, first, x.shape[1])
    return torch.where(inside, x.gather(1, index)[:, 0], -torch.inf)


def _log_ratio(x: Tensor, y: Tensor, lse_p: Tensor, lse_q: Tensor) -> Tensor:
    # Not the difference of two log-probs: their rounding, that of a logit, is no smaller than the ratio itself is near the reference.
    return (x - y).sub_((lse_p - lse_q).to(x.dtype)[:, None])
