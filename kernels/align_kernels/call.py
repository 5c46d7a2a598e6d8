"""A call's arguments, checked, without the tokens that nothing asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align_kernels.backends import Rows, rows
from align_kernels.chunk import Job
from align_kernels.gemm import accumulator
from align_kernels.head import Compared, Comparison, Head
from align_kernels.outcomes import merges

ELEMENTS = {"cuda": 1 << 28}
"""Logits at once by default: 1 GiB of float32 on CUDA, where small chunks starve the GEMM; 64 MiB elsewhere."""


class Call(NamedTuple):
    job: Job
    temperature: float
    hidden: Tensor
    labels: Tensor
    compared: tuple[Compared, ...]
    elements: int
    dtype: torch.dtype
    """Of the logits."""
    tokens: int
    kept: Tensor | None
    """Positions of the tokens that count, int64; None: all."""

    def with_zeros(self, values: Tensor) -> Tensor:
        """Of the tokens that count -> of all, with zeros for the others: [T'] -> [T]."""
        return values if self.kept is None else values.new_zeros(self.tokens).index_put((self.kept,), values)


def prepare_call(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    temperature: float,
    compared: Mapping[str, Compared],
    elements: int | None,
    backend: str | Rows,
    logits_dtype: torch.dtype | None,
    ignore_index: int | None,
    group: Any,
    first: int,
) -> Call:
    """Raises ValueError for what does not fit together."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if elements is not None and elements < 1:
        raise ValueError(f"elements must be at least 1, not {elements}")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"labels must be int64 [T], not {labels.dtype} {list(labels.shape)}")
    _check("hidden", hidden, head, labels)
    for name, c in compared.items():
        _check(f"the hidden states of {name!r}", c.hidden, c.head, labels)
        if len(c.head.weight) != len(head.weight):
            raise ValueError(
                f"the reference {name!r} has {len(c.head.weight)} tokens and the policy {len(head.weight)}: one vocabulary is needed"
            )
    wide = accumulator(hidden.dtype)
    dtype = logits_dtype or (wide if any(c.divergence is not None for c in compared.values()) else hidden.dtype)
    if dtype not in (hidden.dtype, wide):
        raise ValueError(f"logits_dtype must be {hidden.dtype} or {wide}, not {dtype}")
    backend_rows = rows(backend, hidden)
    fused = tuple(c if c.divergence is None else c._replace(divergence=backend_rows.form(c.divergence, wide)) for c in compared.values())
    bare = tuple(Comparison(c.divergence, c.head.scaling(temperature), c.outcomes) for c in fused)
    like = hidden.new_empty(0, dtype=wide)
    merged = tuple(merges(c, len(head.weight), like) for c in bare)
    job = Job(head.scaling(temperature), bare, backend_rows, group, first, merged)
    kept = None if ignore_index is None else (labels != ignore_index).nonzero()[:, 0]
    if kept is not None and len(kept) < len(labels):
        hidden, fused = hidden[kept], tuple(c._replace(hidden=c.hidden[kept]) for c in fused)
        tokens, labels = len(labels), labels[kept]
    else:
        kept, tokens = None, len(labels)
    return Call(job, temperature, hidden, labels, fused, elements or ELEMENTS.get(hidden.device.type, 1 << 24), dtype, tokens, kept)


def _check(what: str, hidden: Tensor, head: Head, labels: Tensor) -> None:
    if hidden.shape != (len(labels), head.weight.shape[1]):
        raise ValueError(f"{what} must be [{len(labels)} as the labels, {head.weight.shape[1]} as the weight], not {list(hidden.shape)}")
    if hidden.dtype != head.weight.dtype:
        raise ValueError(f"{what} are {hidden.dtype} and the head's weight is {head.weight.dtype}: one type is needed")
