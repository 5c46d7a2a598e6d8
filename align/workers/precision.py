"""How precise the matrix products of a process are: what the recipe states, whatever the process was started with."""

from __future__ import annotations

import torch

from align.config.schema import Model


def set_precision(model: Model) -> None:
    """TensorFloat-32 for float32 on CUDA or not. Also against the environment: containers may set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE."""
    # Not `torch.backends.cuda.matmul.fp32_precision`: once that is set, torch refuses to read this one, which compilers read.
    torch.set_float32_matmul_precision("high" if model.tf32 else "highest")
