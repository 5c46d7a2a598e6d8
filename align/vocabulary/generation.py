"""The generation config of a model: read from its folder, and changed to one that transformers writes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import logging

from align.errors import UserError

FILE = "generation_config.json"
OWN = ("transformers_version", "_from_model_config")
"""Keys that transformers writes into every config."""


def read(folder: str) -> GenerationConfig:
    """The config that transformers gives a model of this folder: generation_config.json, or else the keys of an old config.json.

    Raises UserError for one that no model can be loaded with.
    """
    try:
        try:
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
        except OSError:  # many folders have none
            return GenerationConfig.from_pretrained(folder, config_file_name="config.json", local_files_only=True, _from_model_config=True)
    except (ValueError, TypeError) as error:
        file = FILE if (Path(folder) / FILE).is_file() else "config.json"
        raise UserError(
            f"model: {Path(folder) / file}: transformers refuses it: {str(error).splitlines()[0]} Correct this value, or delete it"
        ) from error


def writable(config: GenerationConfig) -> tuple[GenerationConfig, tuple[str, ...]]:
    """A config that `save_pretrained` writes, and the names of the values left out for it, sorted.

    transformers loads a config with values that contradict each other (a temperature beside `do_sample: false`) and refuses to write it.
    Every value is kept that is valid beside the others; what is left out has no effect on `generate`.
    """
    if valid(config):
        return config, ()
    missing = {name: value for name, value in config.to_diff_dict().items() if name not in OWN}
    kept: dict[str, Any] = {}
    verbosity, changed = logging.get_verbosity(), True
    logging.set_verbosity_error()  # it warns of every value that is tried
    while changed:  # a value may be valid only beside one that comes after it: length_penalty needs num_beams
        changed = False
        for name, value in list(missing.items()):
            if _valid_values(kept | {name: value}):
                kept[name] = missing.pop(name)
                changed = True
    logging.set_verbosity(verbosity)
    return GenerationConfig(**kept), tuple(sorted(missing))


def valid(config: GenerationConfig) -> bool:
    """Whether `save_pretrained` writes it."""
    try:
        config.validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True


def _valid_values(values: dict[str, Any]) -> bool:
    try:
        return valid(GenerationConfig(**values))
    except (ValueError, TypeError):
        return False


def exported(config: GenerationConfig, ends: Sequence[int]) -> GenerationConfig:
    """The config to save with a trained model: writable, and stopping at every one of `ends`, the first of which ends a turn."""
    config = writable(config)[0]
    listed = config.eos_token_id
    before = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
    if not set(ends) <= set(before):
        every = list(dict.fromkeys([*ends, *before]))
        config.eos_token_id = every[0] if len(every) == 1 else every
    return config
