"""Reads a model's folder with transformers. What it refuses is one line for the user: the key that names the folder, and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from align.errors import UserError

T = TypeVar("T")
POLICY = "model.path"
"""The key that names the policy's folder."""


def is_adapter(folder: str) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def load_config(folder: str, where: str = POLICY) -> PreTrainedConfig:
    """Raises UserError naming `where` for a folder whose config.json transformers does not read."""
    return loaded(folder, where, "no model", lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))


def load_tokenizer(folder: str, where: str = POLICY) -> Any:
    """Raises UserError naming `where` for a folder without a tokenizer, for which transformers may construct an empty one."""
    tokenizer = loaded(
        folder, where, "no tokenizer", lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise UserError(f"{where}: {folder} holds no tokenizer; put the model's tokenizer.json and tokenizer_config.json there")
    return tokenizer


def loaded(folder: str, where: str, otherwise: str, load: Callable[[], T]) -> T:
    """The result of `load`. Raises UserError that the folder holds `otherwise`, with the first line of the reason."""
    transformers_logging.disable_progress_bar()
    if not Path(folder).is_dir():
        raise UserError(f"{where}: {folder} holds {otherwise}: there is no such folder. Train it first, or give the folder of another run")
    if is_adapter(folder):
        raise UserError(f"{where}: {folder} holds a peft adapter; give a folder with the merged model (`model` of a run is one)")
    try:
        return load()
    except Exception as error:  # a damaged file makes transformers, tokenizers and safetensors each raise their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{where}: {folder} needs Python code of its own (auto_map in its config), which is never run; use a model whose "
                "architecture is in transformers, or a release of it that is"
            ) from error
        raise UserError(f"{where}: {folder} holds {otherwise} that transformers loads: {reason}") from error
