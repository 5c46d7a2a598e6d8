"""A divergence as the kernels see it: one elementwise function, in torch and in Triton."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align_kernels.codegen import cache
from align_kernels.codegen.check import check_emitted, check_forms
from align_kernels.codegen.emit import emit
from align_kernels.codegen.errors import DivergenceError, blamed_on, name_of
from align_kernels.codegen.forms import TorchForms, forms_of
from align_kernels.codegen.nodes import evaluate
from align_kernels.codegen.power import power_and_forms
from align_kernels.codegen.ratio import f_terms
from align_kernels.codegen.terms import ARGUMENTS, Terms, elementwise_terms


@dataclass(frozen=True)
class Elementwise:
    """Any regularizer `D = sum_v phi(log p_v, log q_v)` of a state; its gradient is traced through autograd.

    `phi(a, b, *params)` is an elementwise torch function of log-probs (any shape, nats, floored at -80); `params` are numbers that may
    change between launches without a new compilation.
    """

    phi: Callable[..., Tensor]
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Triton compiles a kernel again for some integers.
        object.__setattr__(self, "params", tuple(map(float, self.params)))

    @property
    def __name__(self) -> str:
        return name_of(self.phi)


class TritonForms(NamedTuple):
    """`@triton.jit` functions of one tile, to be passed as `tl.constexpr`: (a, b, d, p, q, params)."""

    terms: Any
    """-> (term, pull)."""
    term: Any
    pull: Any


@dataclass(frozen=True, eq=False)
class Fused:
    """`D = transform(sum_v term_v)`; its gradient in the scaled logits is `slope (pull_v - p_v sum pull)`.

    Terms are defined in terms.py.
    """

    name: str
    forms: TorchForms | None
    """None for an `Elementwise` that is no f-divergence."""
    params: tuple[float, ...]
    transform: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    """sum_v term [T] -> (D, its slope in the sum), or None where D is the sum."""
    power: float | None
    """Of the alpha family, which needs one pass (see power.py); None for any other."""
    expressions: Callable[[torch.dtype], Terms]
    """For tiles of a type."""
    _loaded: dict[torch.dtype, TritonForms] = field(default_factory=dict, init=False, repr=False)

    def source(self, dtype: torch.dtype = torch.float32) -> str:
        """Of the Triton functions."""
        return emit(self.expressions(dtype), len(self.params), dtype)

    @property
    def hash(self) -> str:
        return cache.content_hash(self.source())

    def terms(self, a: Tensor, b: Tensor, d: Tensor, p: Tensor, q: Tensor, *params: float) -> tuple[Tensor, Tensor]:
        """(term, pull) of tiles in torch, in their type."""
        tile = dict(zip(ARGUMENTS, (a, b, d, p, q), strict=True)) | {f"p{i}": d.new_tensor(x) for i, x in enumerate(params)}
        term, pull = evaluate(self.expressions(d.dtype)[:2], tile)
        return term, pull

    def triton(self, dtype: torch.dtype = torch.float32) -> TritonForms:
        """The functions for tiles accumulated in `dtype` (float64 in tests)."""
        if dtype not in self._loaded:
            module = cache.load(self.source(dtype))
            self._loaded[dtype] = TritonForms(module.terms, module.term, module.pull)
        return self._loaded[dtype]


_known: dict[int, tuple[object, Fused]] = {}


def fused(divergence: object) -> Fused:
    """The kernels' form of a divergence: an object with `f` or `bregman`/`khat`/`grad_weight`, a function `f(log_u)`, or `Elementwise`.

    Made once for each object, whose parameters must not change afterwards. Raises DivergenceError, here and never later, where the
    function cannot become a kernel.
    """
    if id(divergence) not in _known:
        # The object is kept too, so that its id stays its own.
        _known[id(divergence)] = divergence, _fuse(divergence)
    return _known[id(divergence)][1]


def _fuse(divergence: object) -> Fused:
    if not isinstance(divergence, Elementwise):
        return _fuse_ratio(divergence, divergence)
    if not divergence.params and _of_ratio(divergence.phi, divergence):
        # Evaluated more accurately as an f-divergence, unless it is none for another reason, as it may.
        with contextlib.suppress(DivergenceError):
            return _fuse_ratio(lambda log_u: divergence.phi(log_u, torch.zeros_like(log_u)), divergence)
    count = len(divergence.params)
    expressions = functools.cache(lambda dtype: elementwise_terms(divergence.phi, count, dtype, divergence))
    expressions(torch.float32)
    return Fused(name_of(divergence), None, divergence.params, None, None, expressions)


def _fuse_ratio(divergence: object, blame: object) -> Fused:
    """An f-divergence, or an increasing function of one; `blame` is what the user gave."""
    forms = forms_of(divergence, blame)
    check_forms(forms, blame)
    power, forms = power_and_forms(forms)
    expressions = functools.cache(lambda dtype: f_terms(forms, dtype, blame))
    check_emitted(expressions(torch.float32), forms, blame)
    transform = None if getattr(divergence, "is_f_divergence", False) else getattr(divergence, "transform", None)
    return Fused(name_of(blame), forms, (), transform, power, expressions)


def _of_ratio(phi: Callable[..., Tensor], blame: object) -> bool:
    """Is phi(a, b) = e^b f(a - b)?"""
    a, b, both = torch.meshgrid(*(torch.linspace(-3, -0.1, 5, dtype=torch.float64),) * 3, indexing="ij")
    with blamed_on(blame):
        return torch.allclose(phi(a + both, b + both), phi(a, b) * both.exp(), rtol=1e-10, atol=1e-12)
