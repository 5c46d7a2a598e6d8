"""LoRA adapters of a model, and its tensors with the adapters merged."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel

from align.config.schema import Model
from align.errors import UserError

KEPT, REPLACED = ".modules_to_save.default.", ".original_module."
"""Name parts under which peft keeps a fully trained layer and the original of that layer."""
NESTED = re.compile(r"(\.base_layer)+\.")
"""The part of a name that peft adds for adapted layers; one layer may have a wrapper for each of its parameters."""


def add_lora(model: PreTrainedModel, options: Model, task_type: str) -> PeftModel:
    """The model with adapters. Raises UserError at model.lora.targets for no layer of the model, for the head, for a layer whose weight
    another one shares (a tied embedding), and for layers that do not run with an adapter.
    """
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
    if isinstance(model.get_output_embeddings(), LoraLayer):
        raise UserError("model.lora.targets: the head cannot have an adapter, because its weights are read directly; leave it out")
    _refuse_shared(model)
    _refuse_broken(model)
    return adapted


def _refuse_shared(model: PreTrainedModel) -> None:
    """An adapter changes what one layer makes of its weight, and the merged weight would change every layer that has it."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, p in model.named_parameters(remove_duplicate=False):
        owners[id(p)].append(name)
    for names in owners.values():
        adapted = next((n for n in names if ".base_layer." in n or KEPT in n), None)
        if adapted is not None and len(names) > 1:
            plain, *others = (NESTED.sub(".", n).replace(KEPT, ".") for n in sorted(names, key=lambda n: n != adapted))
            raise UserError(
                f"model.lora.targets: {plain} is also {', '.join(others)} (tied weights), and the exported model would have the adapter "
                f"in both; leave {plain.split('.')[-2]} out"
            )


@torch.no_grad()
def _refuse_broken(model: PreTrainedModel) -> None:
    if model.device.type == "meta":
        return  # whose shapes alone are wanted
    try:
        model(input_ids=torch.ones(1, 4, dtype=torch.int64, device=model.device), use_cache=False)
    except Exception as error:
        # A layer that returns more than one tensor, or reads its own weight, fails in its own way.
        first, *_ = str(error).strip().splitlines() or [""]
        raise UserError(
            f"model.lora.targets: {type(model).__name__} does not run with adapters there ({type(error).__name__}: {first}); "
            "name other layers"
        ) from error


def merged(model: torch.nn.Module, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model under its names without adapters. Adapters are merged lazily, into copies.

    Merging in place and undoing it would leave rounding errors in the base weights.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor, path in _without_adapters(model, leave_out):
        yield name, _with_deltas(tensor, [layers[p] for p in _wrappers(path)], path.rpartition(".")[2])


def unmerged(model: torch.nn.Module, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """The model's own tensors, with the names, shapes, dtypes and devices of `merged`; nothing is computed."""
    return ((name, tensor) for name, tensor, _ in _without_adapters(model, leave_out))


def _without_adapters(model: torch.nn.Module, leave_out: Collection[str]) -> Iterator[tuple[str, Tensor, str]]:
    """Each tensor outside the adapters: its name in the model without adapters, the tensor, and its name in the model."""
    for name, tensor in model.state_dict().items():
        if ".lora_" in name or REPLACED in name:
            continue
        plain = NESTED.sub(".", name).replace(KEPT, ".")
        if plain not in leave_out:
            yield plain, tensor, name


def _wrappers(name: str) -> list[str]:
    """The names of the adapted layers around a tensor: `a.base_layer.base_layer.w` is in `a` and in `a.base_layer`."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i, part in enumerate(parts) if part == "base_layer"]


@torch.no_grad()
def _with_deltas(tensor: Tensor, layers: list[LoraLayer], name: str) -> Tensor:
    for layer in layers:
        # A wrapper of a parameter adapts that one alone; another layer adapts its weight.
        if name == (layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"):
            # Every adapted layer of peft has this method, but their base class does not declare it.
            delta = layer.get_delta_weight("default")  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
            tensor = delta.to(tensor.dtype).add_(tensor)
    return tensor
