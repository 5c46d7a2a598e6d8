"""The three elementwise functions of a divergence: its own closed forms, or what follows from f by autograd."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from align_kernels.by_f import ByF, Function
from align_kernels.codegen.errors import DivergenceError, blamed_on, name_of
from align_kernels.codegen.expressions import Expressions
from align_kernels.codegen.trace import trace

_LEAST_REACH = 8.0
"""Nats of |log u| that float32 has to hold at the least."""
_RENAMED = {"generator": "bregman", "value": "khat", "coefficient": "grad_weight"}


@dataclass(frozen=True)
class Held:
    """A form that follows from f, held at the last log u on each side where float32 still has it."""

    whole: Function
    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.whole(x.clamp(self.low, self.high))


class TorchForms(NamedTuple):
    """Elementwise torch functions of log u = log p - log q, nats."""

    bregman: Function
    """k_f(u) = f(u) - f(1) - f'(1)(u - 1)."""
    khat: Function
    """k_f(u)/u."""
    grad_weight: Function
    """f'(u) - f'(1)."""


def forms_of(divergence: object, blame: object) -> TorchForms:
    """Closed forms where the divergence has them; where one is missing, or is computed in float64 on the way, it is derived here.

    `blame` is what the user gave, for messages.
    """
    for name, now in _RENAMED.items():
        if inspect.ismethod(getattr(divergence, name, None)):
            raise DivergenceError(f"{name_of(blame)}: `{name}(log_u)` is called `{now}(log_u)`")
    bregman, khat, grad_weight = (_closed(divergence, name, blame) for name in TorchForms._fields)
    if bregman is not None and grad_weight is not None:
        _stop_unless_traced((bregman, khat, grad_weight), blame)
        return TorchForms(bregman, _khat(bregman, blame) if khat is None else khat, grad_weight)
    f = cast("Function | None", getattr(divergence, "f", divergence if callable(divergence) else None))
    if f is None:
        raise DivergenceError(f"{name_of(blame)} gives neither f(log_u) nor both bregman(log_u) and grad_weight(log_u)")
    _stop_unless_traced((bregman, khat, grad_weight, f), blame)
    by_f = ByF(f)
    _stop_unless_finite(by_f, blame)
    k_f = by_f.bregman if bregman is None else bregman
    khat = _khat(k_f, blame) if khat is None else khat
    if bregman is None:
        bregman = _within_reach(k_f, blame)
    if grad_weight is None:
        # Below the reference it comes with u.
        grad_weight = _within_reach(by_f.grad_weight, blame, weight=lambda x: torch.exp(x.clamp_max(0)))
    return TorchForms(bregman, khat, grad_weight)


def _stop_unless_traced(functions: Iterable[Function | None], blame: object) -> None:
    """What cannot be traced is refused before its numbers are looked at."""
    for function in filter(None, functions):
        make = Expressions()
        trace(make, function, (make.input("log_u"),), blame=blame)


def _khat(k_f: Function, blame: object) -> Function:
    return _within_reach(lambda x: torch.exp(-x) * k_f(x), blame)


def _closed(divergence: object, name: str, blame: object) -> Function | None:
    function = getattr(divergence, name, None)
    if function is None:
        return None
    with blamed_on(blame), _Widening() as seen:
        function(torch.tensor([-0.6, -0.1]))
    return None if seen.widened else function


class _Widening(TorchDispatchMode):
    """Sees whether anything is computed in float64: slow on a GPU, and a sign of a form that is derived by autograd."""

    widened = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.widened |= isinstance(out, Tensor) and out.dtype == torch.float64
        return out


def _stop_unless_finite(by_f: ByF, blame: object) -> None:
    with blamed_on(blame):
        at_one = by_f.at_one
    if not (math.isfinite(at_one.f) and math.isfinite(at_one.slope)):
        raise DivergenceError(f"{name_of(blame)}: f or its slope is not finite at log u = 0, where policy and reference agree")


def _within_reach(function: Function, blame: object, weight: Function = torch.ones_like) -> Held:
    """A derived form has no other way not to overflow."""
    grid = torch.arange(0.5, 88, 0.5, dtype=torch.float64)
    ends = {}
    for sign in (-1, 1):
        with blamed_on(blame):
            exact, single = function(sign * grid), function((sign * grid).float()).double()
        # Where it is small, it is its effect on the sum that counts.
        by = weight(sign * grid)
        good = by * (single - exact).abs() <= 1e-4 * (by * exact.abs()).clamp_min(1e-2)
        ends[sign] = grid[: int(good.long().cumprod(0).sum())].max().item() if good[0] else 0.0
    if min(ends.values()) < _LEAST_REACH:
        bad = min(ends, key=lambda sign: ends[sign])
        raise DivergenceError(
            f"{name_of(blame)}: float32 holds what follows from f only to log u = {bad * ends[bad]}; "
            "give bregman(log_u), khat(log_u) and grad_weight(log_u) in a form that does not overflow or cancel"
        )
    return Held(function, low=-ends[-1], high=ends[1])
