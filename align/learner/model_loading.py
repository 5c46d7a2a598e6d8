"""Loads model folders: whole models and peft adapters, checked against the policy that uses them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from align.config.schema import Model
from align.errors import UserError
from align.vocabulary.files import is_adapter, load_config, loaded

Module = TypeVar("Module", bound=torch.nn.Module)
WHOLE = Model(path="", dtype="float32")
"""How a model is loaded for its values alone."""


def load_causal_lm(folder: str, options: Model, where: str) -> PreTrainedModel:
    """A causal model in the precision and with the attention of `options`.

    Raises UserError naming `where` for a folder without a causal model, for one whose weights are incomplete or not finite, and for one
    with an adapter: transformers would silently load the adapter on top of its base, and the model with the adapter off would not be the
    initial policy.
    """
    model, info = loaded(  # pyright: ignore[reportGeneralTypeIssues]  # a pair with output_loading_info
        folder,
        where,
        "no causal language model",
        lambda: AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, options.dtype), local_files_only=True, trust_remote_code=False, output_loading_info=True
        ),
    )
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{where}: the weights in {folder} lack {_some(missing)}, which transformers would draw at random; give the whole model, with "
            "the config.json that belongs to it"
        )
    _refuse_not_finite(model, folder, where)
    return _with_attention(model, options.attn_implementation)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _refuse_not_finite(model: PreTrainedModel, folder: str, where: str) -> None:
    """Raises UserError for a parameter with a number that is NaN or infinite. Smallest and largest value of one with NaN are NaN."""
    floats = ((name, p.detach()) for name, p in model.named_parameters() if p.is_floating_point() and p.numel())
    wrong = [name for name, p in floats if not torch.stack(p.aminmax()).isfinite().all()]
    if wrong:
        raise UserError(
            f"{where}: the weights in {folder} have numbers that are NaN or infinite in {_some(wrong)}; give a model whose training did "
            f"not diverge, in a model.dtype that holds its numbers"
        )


def _with_attention(model: PreTrainedModel, name: str | None) -> PreTrainedModel:
    """The model with this attention, or with transformers' default for it: sdpa where the architecture supports it, else eager."""
    if name is None:
        return model
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise UserError(f"model.attn_implementation: {name} cannot be used: {str(error).splitlines()[0]}") from error
    if model.config._attn_implementation != name:
        raise UserError(
            f"model.attn_implementation: a {type(model).__name__} has one attention, {model.config._attn_implementation}: delete the key"
        )
    return model


def load_reward_model(folder: str, options: Model, where: str, *, fresh: bool) -> PreTrainedModel:
    """A sequence-classification model with one output, `score`, a linear layer on its last state.

    Args: fresh: put a new head on a causal language model, drawn from torch's generator and small, so that scores start near 0.
    Raises UserError naming `where` for a folder with neither kind of model, or, without `fresh`, with no reward model.
    """
    config = load_config(folder, where)
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if trained and config.num_labels != 1:
        raise UserError(f"{where}: the model in {folder} has {config.num_labels} output classes; a reward model has one output")
    if not trained and not fresh:
        raise UserError(
            f"{where}: {folder} holds {', '.join(config.architectures or ('a model',))} and no reward model; train one from "
            "preferences, or give a folder of one that AutoModelForSequenceClassification loads"
        )
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would warn of the missing head, which is checked below
    try:
        model, info = loaded(
            folder,
            where,
            "no reward model and no causal language model",
            lambda: AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=1,
                dtype=getattr(torch, options.dtype),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            ),
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = info["missing_keys"] - (set() if trained else {"score.weight"})
    head = getattr(model, "score", None)
    if missing or not isinstance(head, torch.nn.Linear):
        raise UserError(
            f"{where}: the model in {folder} "
            + (
                f"lacks {', '.join(sorted(missing))}"
                if missing
                else f"is a {type(model).__name__}, whose head is not one linear layer called score"
            )
        )
    if not trained:
        torch.nn.init.normal_(head.weight, std=1 / (head.in_features + 1))
    _refuse_not_finite(model, folder, where)
    return _with_attention(model, options.attn_implementation)


def on_device(model: Module, device: torch.device) -> Module:
    """The model on `device`. Calls torch's `Module.to`: type checkers cannot see transformers' decorated `to` as a method."""
    return model.to(device)


def whole_values(folder: str, base: str, like: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """float32 parameters by name: of the whole model in `folder`, or of the adapter in `folder` merged into the model in `base`.

    Raises UserError if names or shapes differ from those of `like`.
    """
    model = adapted(folder, base, where) if is_adapter(folder) else load_causal_lm(folder, WHOLE, where)
    values = {n: p.detach() for n, p in model.named_parameters()}
    _must_fit(
        values,
        like,
        f"{where}: {folder} is not of the policy's architecture",
        "only models of one architecture can be averaged or replace one another (reference teacher takes any)",
    )
    return values


def adapted(folder: str, base: str, where: str) -> PreTrainedModel:
    """The model in `base` in float32, with the adapter in `folder` merged into it. Raises UserError if it does not fit."""
    try:
        return PeftModel.from_pretrained(load_causal_lm(base, WHOLE, where), folder).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{where}: the adapter in {folder} does not fit {base}: {str(error).splitlines()[0]}") from error


def adapter_values(folder: str, like: Mapping[str, Tensor], scaling: float, where: str) -> dict[str, Tensor]:
    """The adapter in `folder` as values for the policy's own adapter `like`, whose delta is `scaling * B A`.

    Raises UserError if its rank or targets differ from the policy's.
    """
    config = PeftConfig.from_pretrained(folder)
    if not isinstance(config, LoraConfig) or config.peft_type != "LORA" or config.use_dora or config.rank_pattern or config.alpha_pattern:
        raise UserError(f"{where}: {folder} is not a plain LoRA adapter, the only kind that can replace the policy's")
    own = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    # peft saves an adapter's tensors without the adapter's name.
    values = {n.replace(".weight", ".default.weight"): v for n, v in load_peft_weights(folder, device="cpu").items()}
    _must_fit(
        values,
        like,
        f"{where}: the adapter in {folder} is not of the policy's shape",
        "model.lora.rank and model.lora.targets must be those it was trained with",
    )
    # The policy scales the adapter by its own alpha, so compensate for the alpha it was trained with.
    return {n: v.to(like[n].dtype) * (own / scaling if ".lora_B." in n else 1.0) for n, v in values.items()}


def _must_fit(values: Mapping[str, Tensor], like: Mapping[str, Tensor], problem: str, remedy: str) -> None:
    for name in sorted(values.keys() | like.keys()):
        if name not in values or name not in like:
            raise UserError(f"{problem}: {name} is in one of them only; {remedy}")
        if values[name].shape != like[name].shape:
            raise UserError(f"{problem}: {name} is {list(values[name].shape)}, the policy's is {list(like[name].shape)}; {remedy}")


def content_hash(values: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits: a hash of names, types, shapes and bytes, independent of their order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(values, key=lambda item: item[0]):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
