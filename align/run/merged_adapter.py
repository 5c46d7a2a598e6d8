"""An initial policy that is a peft adapter: it is merged into its base once, in the folder of the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from align import manifest
from align.disk import writing
from align.errors import RecipeError
from align.run.model_source import fetched_folder
from align.vocabulary.files import load_config

WHERE = "model.path"
TOKENIZER = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def base_of(adapter: Path) -> tuple[str, str | None]:
    """The model that an adapter was trained on, a path or a Hub id, and its revision. Raises RecipeError if its config names none."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text())
        name, revision = config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(WHERE, f"the adapter in {adapter} does not name its base model: {type(error).__name__}: {error}") from error
    if not isinstance(name, str) or not name:
        raise RecipeError(
            WHERE, f"the adapter in {adapter} does not name its base model: set base_model_name_or_path in adapter_config.json"
        )
    return name, revision


def merged_adapter(adapter: Path, folder: Path, note: Callable[[str], None]) -> Path:
    """`folder` with the adapter merged into its base, in the base's precision; written once.

    The tokenizer is the adapter's own if it has one. Raises RecipeError if the base is not available or the adapter does not fit it.
    """
    if folder.exists() and manifest.is_whole(folder, "the initial model", note):
        return folder
    # peft takes seconds to import, and most initial policies are whole models.
    from align.learner.model_loading import adapted  # noqa: PLC0415

    name, revision = base_of(adapter)
    base = fetched_folder(name, None if Path(name).is_dir() else revision, WHERE)
    note(f"model.path: the adapter in {adapter} is merged into its base, {name}, in {folder}")
    model, saved = adapted(str(adapter), str(base), WHERE), load_config(str(base)).dtype
    # Module's own `to`: type checkers cannot see transformers' decorated one as a method.
    torch.nn.Module.to(model, saved if isinstance(saved, torch.dtype) else torch.float32)
    source = adapter if (adapter / "tokenizer_config.json").is_file() else base
    shutil.rmtree(folder, ignore_errors=True)
    with writing(f"the initial model {folder}"):
        model.save_pretrained(folder)
        # Copied, because saving a loaded tokenizer would add the tokens of its class to it.
        for pattern in TOKENIZER:
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        manifest.write(folder, manifest.entries(folder))
    return folder
