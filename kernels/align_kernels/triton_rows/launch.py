"""How the row kernels are launched: tile sizes by the logits' size in bytes, what is asked of the tensors, and where they run."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import torch
from torch import Tensor

from align_kernels.codegen.fused import TritonForms

# A lane holds as many neighbouring logits as one 16-byte load brings: B = 32 * num_warps * 16 / bytes, or a multiple.
STATS = {2: {"K": 8, "B": 1024, "num_warps": 4}, 4: {"K": 8, "B": 512, "num_warps": 4}, 8: {"K": 2, "B": 64, "num_warps": 4}}
SUM = {2: {"B": 1024, "num_warps": 4}, 4: {"B": 1024, "num_warps": 4}, 8: {"B": 64, "num_warps": 4}}
GRAD = SUM
ONE_PASS = {2: {"K": 4, "B": 1024, "num_warps": 4}, 4: {"K": 4, "B": 512, "num_warps": 4}, 8: {"K": 2, "B": 64, "num_warps": 4}}


class Kernel(Protocol):
    """What the passes take of a divergence: a `Fused`, or its emitted source alone."""

    @property
    def params(self) -> tuple[float, ...]: ...

    @property
    def power(self) -> float | None: ...

    def triton(self, dtype: torch.dtype, /) -> TritonForms: ...


def accumulator(z: Tensor) -> torch.dtype:
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def check_rows(z: Tensor, *others: Tensor | None) -> None:
    """Raises ValueError unless all are [T, V] on one device, their rows contiguous."""
    for t in (z, *others):
        if t is not None and (t.shape != z.shape or t.device != z.device or (t.shape[1] > 1 and t.stride(1) != 1)):
            raise ValueError(
                f"logits must be [T, V] = {list(z.shape)} on {z.device} with contiguous rows, not {list(t.shape)} on {t.device} with "
                f"strides {t.stride()}"
            )


def launch_rows(kernel: Any, z: Tensor, *arguments: Any, **constants: Any) -> None:
    """One program for each row of z, on the device of z."""
    if not len(z):
        return
    # Triton launches on the current device, which may be another.
    with torch.cuda.device(z.device) if z.is_cuda else contextlib.nullcontext():
        kernel[(len(z),)](z, *arguments, **constants)
