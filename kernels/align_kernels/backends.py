"""Who runs the passes over rows of logits: Triton kernels, torch as the compiler fuses it, or plain torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from align_kernels import torch_rows
from align_kernels.terms import OfRows

BACKENDS = ("auto", "triton", "compile", "torch")
RECOMPILATIONS = 64
"""One for each divergence, with and without each term of the gradient; Dynamo gives up silently after 8."""


class Rows(NamedTuple):
    """The row functions of one backend (see torch_rows)."""

    name: str
    row_stats: Callable
    row_sum: Callable
    row_grad: Callable
    one_pass: Callable | None = None
    """row_stats and row_sum together, for a traced divergence that has a `power`."""
    check: Callable | None = None
    """(traced divergence, dtype): raises DivergenceError where this device's kernels do not compute it."""
    check_log_prob: Callable | None = None
    """(dtype): raises where this device's kernels do not compute log-prob, entropy and their gradient."""

    def stop_unless_right(self, dtype: torch.dtype) -> None:
        """Compiles and checks the kernels that every call needs, for statistics in `dtype`.

        Raises ValueError where one is wrong, and whatever the compiler or the device raises.
        """
        if self.check_log_prob is not None:
            self.check_log_prob(dtype)

    def form(self, divergence: Any, dtype: torch.dtype) -> Any:
        """What this backend's row functions take for a divergence, for statistics in `dtype`.

        Raises DivergenceError (a ValueError) for one that cannot become a kernel.
        """
        if isinstance(divergence, OfRows):
            return divergence
        if self.name == "torch" and all(hasattr(divergence, name) for name in ("bregman", "khat", "grad_weight")):
            return divergence
        from align_kernels.codegen import Fused, fused  # noqa: PLC0415 - the tracer takes a second to import

        kernel = divergence if isinstance(divergence, Fused) else fused(divergence)
        if self.check is not None:
            self.check(kernel, dtype)
        return _traced(kernel, dtype) if self.name == "compile" else kernel


def unavailable(backend: str, device_type: str) -> str | None:
    """Why this backend cannot run on this machine, or None."""
    if backend not in BACKENDS:
        return f"there is no backend {backend!r}: {', '.join(BACKENDS)}"
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed: install it, or use torch or compile"
    if backend == "triton" and device_type != "cuda" and not interpreting():
        return f"Triton kernels run on CUDA, and this is {device_type}: use auto, torch or compile"
    return None


def interpreting() -> bool:
    """Triton's interpreter stands in for the GPU (TRITON_INTERPRET=1, as Triton read it)."""
    from triton import knobs  # noqa: PLC0415 - triton is optional

    return knobs.runtime.interpret


def rows(backend: str | Rows, tensor: torch.Tensor) -> Rows:
    """The row functions for logits made of this tensor; Rows are taken as they are.

    On CUDA `auto` takes torch for float64: Triton passes a number to a kernel as a float32, so that with `triton` the scale over
    the temperature, a soft cap and an Elementwise's parameters are right to 6e-8 only. Raises ValueError where the backend cannot run.
    """
    if isinstance(backend, Rows):
        return backend
    if backend == "auto":
        fast = tensor.is_cuda and tensor.dtype != torch.float64 and unavailable("triton", "cuda") is None
        backend = "triton" if fast else "torch"
    reason = unavailable(backend, tensor.device.type)
    if reason:
        raise ValueError(reason)
    return _rows(backend, tensor.device)


@lru_cache
def _rows(backend: str, device: torch.device) -> Rows:
    if backend == "triton":
        from align_kernels import triton_rows  # noqa: PLC0415 - triton is optional
        from align_kernels.triton_rows.selfcheck import check, check_log_prob  # noqa: PLC0415 - triton is optional

        return Rows(
            backend,
            triton_rows.row_stats,
            triton_rows.row_sum,
            triton_rows.row_grad,
            triton_rows.one_pass,
            partial(check, device),
            partial(check_log_prob, device),
        )
    plain = (torch_rows.row_stats, torch_rows.row_sum, torch_rows.row_grad)
    return Rows(backend, *(plain if backend == "torch" else map(_compiled, plain)))


def _compiled(function: Callable) -> Callable:
    # The compiler fuses what `in_cache` cuts small for.
    compiled = torch.compile(inspect.unwrap(function), dynamic=True)

    def call(*args: Any, **keywords: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILATIONS):
            return compiled(*args, **keywords)

    return call


@lru_cache
def _traced(kernel: Any, dtype: torch.dtype) -> Any:
    """The same with its expressions at hand, so that the compiler sees them and not how they are made."""
    expressions = kernel.expressions(dtype)
    return dataclasses.replace(kernel, expressions=lambda _: expressions)
