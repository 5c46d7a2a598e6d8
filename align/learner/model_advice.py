"""Advice for recipes that are correct but slow."""

from __future__ import annotations

import torch
from transformers import AutoConfig

from align.config.schema import Model


def model_notes(options: Model, model_dir: str, on_gpu: bool) -> list[str]:
    """Lines for the user. Args: model_dir: the initial policy's folder; on_gpu: the learner computes on CUDA.

    Returns nothing for a folder that cannot be read: loading it raises the error.
    """
    if not on_gpu or options.dtype != "float32" or options.tf32:
        return []
    try:
        saved = AutoConfig.from_pretrained(model_dir, local_files_only=True).dtype
    except (OSError, ValueError):
        return []
    if saved not in (torch.bfloat16, torch.float16):
        return []
    return [
        f"model.dtype: float32 is about 12x slower than bfloat16 on a GPU's tensor cores, and the saved model is "
        f"{str(saved).removeprefix('torch.')}: model.dtype=bfloat16 trains with float32 values of the weights all the same; "
        "model.tf32=true lies between the two"
    ]
