"""Code that the policy and the reward model share: token positions, LoRA adapters and their merge."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from align.config.schema import Model
from align.errors import UserError
from align.types import TokenBatch

KEPT, REPLACED = ".modules_to_save.default.", ".original_module."
"""Name parts under which peft keeps a fully trained layer and the original of that layer."""


def device_of(options: Model) -> torch.device:
    """The device of a model. Raises UserError for a missing GPU, and for an option that only a GPU has."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: cuda was asked for, but torch sees no GPU in the learner's process; use auto or cpu")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    if options.tf32 and device.type == "cpu":
        raise UserError("model.tf32: changes nothing: the learner computes on the CPU; delete the key")
    return device


def before_each_token(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rows and columns of `batch.input_ids` of the token before each trained token: int64 [T] each."""
    return batch.seq_ids, batch.columns - 1


def at_the_end(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rows and columns of `batch.input_ids` where each sequence ends: int64 [S] each."""
    return torch.arange(len(batch.lengths), device=batch.lengths.device), batch.totals - 1


def add_lora(model: PreTrainedModel, options: Model, task_type: str) -> PeftModel:
    """The model with adapters. Raises UserError if model.lora.targets names no layer of the model, or names the head."""
    targets = options.lora.targets if options.lora.targets == "all-linear" else options.lora.targets.split(",")
    try:
        # By default peft makes float32 adapters, so each layer of a bfloat16 model would compute them without tensor cores.
        # The optimizer keeps the float32 values (masters).
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=options.lora.rank,
                lora_alpha=options.lora.alpha,  # pyright: ignore[reportArgumentType]  # peft only divides it, by the rank
                lora_dropout=options.lora.dropout,
                target_modules=targets,
                task_type=task_type,
            ),
            autocast_adapter_dtype=False,
        )
    except ValueError as error:
        raise UserError(f"model.lora.targets: {error}") from error
    if hasattr(model.get_output_embeddings(), "lora_A"):
        raise UserError("model.lora.targets: the head cannot have an adapter, because its weights are read directly; leave it out")
    return adapted


def merged(model: torch.nn.Module, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model under its names without adapters. Adapters are merged lazily, into copies.

    Merging in place and undoing it would leave rounding errors in the base weights.
    """
    modules = dict(model.named_modules())
    for name, tensor, owner in _without_adapters(model, leave_out):
        yield name, _with_delta(tensor, modules[owner]) if owner else tensor


def unmerged(model: torch.nn.Module, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The model's own tensors, with the names, shapes, dtypes and devices of `merged`; nothing is computed."""
    return ((name, tensor) for name, tensor, _ in _without_adapters(model, leave_out))


def _without_adapters(model: torch.nn.Module, leave_out: Collection[str]) -> Iterator[tuple[str, Tensor, str]]:
    """Each tensor outside the adapters: its name in the model without adapters, the tensor, and the adapted layer's name or ""."""
    for name, tensor in model.state_dict().items():
        if ".lora_" in name or REPLACED in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(KEPT, ".")
        if plain not in leave_out:
            yield plain, tensor, name.rpartition(".base_layer.")[0] if name.endswith(".weight") else ""


@torch.no_grad()
def _with_delta(tensor: Tensor, layer: torch.nn.Module) -> Tensor:
    # Every adapted layer of peft has this method, but their base class does not declare it.
    delta = layer.get_delta_weight("default")  # pyright: ignore[reportCallIssue]
    return delta.to(tensor.dtype).add_(tensor)
