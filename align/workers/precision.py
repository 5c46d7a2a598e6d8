"""Sets the precision of matrix products from the recipe, independent of the process's environment."""

from __future__ import annotations

import torch

from align.config.schema import Model


def set_precision(model: Model) -> None:
    """Switch TensorFloat-32 on CUDA on or off. This overrides TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some containers set."""
    # Not `torch.backends.cuda.matmul.fp32_precision`: once that is set, torch refuses to read this setting, which compilers read.
    torch.set_float32_matmul_precision("high" if model.tf32 else "highest")
