"""Model folders as they are read: whole models, and peft adapters, checked against the policy they are to stand beside."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from align.errors import UserError

T = TypeVar("T")
Module = TypeVar("Module", bound=torch.nn.Module)


def is_adapter(folder: str) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def load_causal_lm(folder: str, dtype: str, where: str) -> PreTrainedModel:
    """A causal model with every dropout at 0: dropout would make the policy differ from its own reference and engine.

    Raises UserError naming `where` for a folder without one, and for one with an adapter: transformers would quietly load it on top
    of its base, and the model "with the adapter off" would not be the policy that training starts from.
    """
    return _without_dropout(
        _loaded(
            folder,
            where,
            "no causal language model",
            lambda: AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
            ),
        )
    )


def load_reward_model(folder: str, dtype: str, where: str, *, fresh: bool) -> PreTrainedModel:
    """A sequence-classification model with one output, `score`, a linear layer on its last state; every dropout at 0.

    Args: fresh: where the folder holds a causal language model, its states get a head drawn from torch's generator, small enough
    that scores begin near 0. Raises UserError naming `where` for a folder with neither, or without `fresh` for one with no scorer.
    """
    config = _loaded(folder, where, "no model", lambda: AutoConfig.from_pretrained(folder, local_files_only=True))
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if trained and config.num_labels != 1:
        raise UserError(f"{where}: the model in {folder} tells {config.num_labels} classes apart; a scorer has one output")
    if not trained and not fresh:
        raise UserError(
            f"{where}: {folder} holds {', '.join(config.architectures or ('a model',))} and no scorer; train one from "
            "preferences, or give a folder of one that AutoModelForSequenceClassification loads"
        )
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would tell of the missing head, which is looked for below
    try:
        model, info = _loaded(
            folder,
            where,
            "no scorer and no causal language model",
            lambda: AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=1,
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                local_files_only=True,
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
    return _without_dropout(model)


def on_device(model: Module, device: torch.device) -> Module:
    """The model, moved. As torch declares `to`: transformers' own hides behind a decorator that it is a method."""
    return model.to(device)


def load_tokenizer(folder: str, where: str):
    """Raises UserError naming `where` for a folder without one, where transformers may make one up that knows no text."""
    tokenizer = _loaded(folder, where, "no tokenizer", lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise UserError(
            f"{where}: {folder} holds no tokenizer; put the files of the model's own there (tokenizer.json and tokenizer_config.json)"
        )
    return tokenizer


def _loaded(folder: str, where: str, otherwise: str, load: Callable[[], T]) -> T:
    transformers_logging.disable_progress_bar()
    if not Path(folder).is_dir():
        raise UserError(f"{where}: {folder} holds {otherwise}: there is no such folder. Train it first, or give the folder of another run")
    if is_adapter(folder):
        raise UserError(f"{where}: {folder} holds a peft adapter; give a folder with the merged model (`model` of a run is one)")
    try:
        return load()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {folder} holds {otherwise} that transformers loads: {str(error).splitlines()[0]}") from error


def _without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for key in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, key):
            setattr(model.config, key, 0.0)
    return model


def whole_values(folder: str, base: str, like: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """float32 parameters, by name, of the whole model in `folder`, or of the adapter in it merged into the model of `base`.

    Raises UserError where names or shapes are not those of `like`.
    """
    model = _adapted(folder, base, where) if is_adapter(folder) else load_causal_lm(folder, "float32", where)
    values = {n: p.detach() for n, p in model.named_parameters()}
    _must_fit(
        values,
        like,
        f"{where}: {folder} is not of the policy's architecture",
        "only models of one architecture can be averaged or stand in for one another (reference teacher takes any)",
    )
    return values


def _adapted(folder: str, base: str, where: str) -> torch.nn.Module:
    try:
        return PeftModel.from_pretrained(load_causal_lm(base, "float32", where), folder).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{where}: the adapter in {folder} does not fit {base}: {str(error).splitlines()[0]}") from error


def adapter_values(folder: str, like: Mapping[str, Tensor], scaling: float, where: str) -> dict[str, Tensor]:
    """The adapter in `folder` as values for the policy's own adapter `like`, whose delta is `scaling * B A`.

    Raises UserError where rank or targets are not the policy's.
    """
    config = PeftConfig.from_pretrained(folder)
    if not isinstance(config, LoraConfig) or config.peft_type != "LORA" or config.use_dora or config.rank_pattern or config.alpha_pattern:
        raise UserError(f"{where}: {folder} is not a plain LoRA adapter, which is all that can stand in for the policy's")
    own = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    # peft saves an adapter without the name it has in a model.
    values = {n.replace(".weight", ".default.weight"): v for n, v in load_peft_weights(folder, device="cpu").items()}
    _must_fit(
        values,
        like,
        f"{where}: the adapter in {folder} is not of the policy's shape",
        "model.lora.rank and model.lora.targets must be those it was trained with",
    )
    # The policy will scale it by its own alpha, whatever it was trained with.
    return {n: v.to(like[n].dtype) * (own / scaling if ".lora_B." in n else 1.0) for n, v in values.items()}


def _must_fit(values: Mapping[str, Tensor], like: Mapping[str, Tensor], problem: str, remedy: str) -> None:
    for name in sorted(values.keys() | like.keys()):
        if name not in values or name not in like:
            raise UserError(f"{problem}: {name} is in one of them only; {remedy}")
        if values[name].shape != like[name].shape:
            raise UserError(f"{problem}: {name} is {list(values[name].shape)}, the policy's is {list(like[name].shape)}; {remedy}")


def content_hash(values: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits of names, types, shapes and bytes, whatever their order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(values, key=lambda item: item[0]):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
