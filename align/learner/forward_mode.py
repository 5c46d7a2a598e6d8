"""A model computes the same thing in every pass: evaluation mode throughout, also where activations are recomputed.

transformers recomputes activations in training mode only, where dropout is on, layers are dropped and routers are jittered. Setting
known probabilities to 0 misses some, for they are read from modules, attributes and configurations. So a layer's flag is up only while
transformers asks whether to recompute the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from align.config.schema import Model
from align.errors import UserError


def set_mode(model: PreTrainedModel, adapted: torch.nn.Module, options: Model) -> None:
    """Evaluation mode, with recomputed activations if `options` asks. `adapted`: the model with its adapters, if it has any.

    Raises UserError for an architecture whose layers transformers cannot recompute.
    """
    adapted.eval()
    if not options.activation_checkpointing:
        return
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise UserError(
            f"model.activation_checkpointing: transformers cannot recompute the layers of a {type(model).__name__}; delete the key"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in layers:
        layer.training = True
        # torch declares every attribute of a module as a tensor or a module.
        layer._gradient_checkpointing_func = _recomputed(layer)  # pyright: ignore[reportArgumentType]


def _recomputed(layer: torch.nn.Module) -> Callable[..., Any]:
    def run(forward: Callable[..., Any], *args: Any) -> Any:
        def in_evaluation_mode(*args: Any) -> Any:
            layer.training = False
            try:
                return forward(*args)
            finally:
                layer.training = True

        return checkpoint(in_evaluation_mode, *args, use_reentrant=False)

    return run


@contextmanager
def adapter_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Dropout of LoRA's layers is on inside. Leave the context after the backward pass, which may compute the layers again."""
    dropouts = [m for name, m in model.named_modules() if ".lora_dropout." in name and isinstance(m, torch.nn.Dropout)]
    for dropout in dropouts:
        dropout.train()
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.eval()
