"""The folder of a model that a recipe names: a local one, or one of the Hugging Face Hub, which is fetched once and kept in its cache."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from align.config.paths import paths_start
from align.errors import RecipeError
from align.vocabulary.files import is_adapter

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Configuration, tokenizer and weights. Pickled weights (`*.bin`) and Python files are not fetched: reading them could run code."""
INDEX = "model.safetensors.index.json"


def stored_folder(path: str, revision: str | None = None) -> Path | None:
    """The folder of a model or adapter, given as a path or a Hub id, without asking the Hub; None if it is not on this machine."""
    folder = Path(path)
    if not _holds_model(folder):
        if not HUB_ID.fullmatch(path):
            return None
        try:
            folder = Path(snapshot_download(path, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    return folder if _holds_model(folder) else None


def fetched_folder(path: str, revision: str | None, where: str) -> Path:
    """The folder of a model or adapter. An id whose files are in the Hub's cache is not asked for again; another is fetched, with the
    token of `hf auth login` or HF_TOKEN, and not with HF_HUB_OFFLINE=1.

    Raises RecipeError at the key `where` if it is neither here nor can be fetched.
    """
    if os.path.isdir(path):
        if not _holds_model(Path(path)):
            raise RecipeError(where, f"the folder {path} holds no model: it has neither config.json nor adapter_config.json")
        if revision is not None:
            raise RecipeError("model.revision", f"changes nothing: {path} is a local folder, which has no revisions; delete the key")
        return Path(path)
    stored = stored_folder(path, revision)
    if stored is not None and _is_complete(stored):
        return stored
    if not HUB_ID.fullmatch(path):
        raise RecipeError(where, f"there is no model folder {path} ({paths_start()}; a model of the Hugging Face Hub is named owner/name)")
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=list(FETCHED)))
    except Exception as error:  # huggingface_hub, its HTTP library and the disk each raise their own
        raise RecipeError(where, _unfetched(path, revision, error)) from error
    if not (_holds_model(folder) and _is_complete(folder)):
        raise RecipeError(
            where,
            f"{path} in the Hugging Face Hub's cache has no config.json with all weights in safetensors, the only kind fetched: the model "
            "has others (convert it), or its download was cut short and the Hub cannot be reached",
        )
    return folder


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(str(folder))


def _is_complete(folder: Path) -> bool:
    """Whether all weights are there: a download that was stopped leaves some out."""
    if (folder / INDEX).is_file():
        shards = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors"))


def _unfetched(path: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{path} is gated: accept its licence on the Hugging Face Hub, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{path} has no revision {revision!r} on the Hugging Face Hub: correct model.revision"
    absent = f"there is no model folder {path} (no config.json in it), it is not in the Hugging Face Hub's cache"
    if isinstance(error, RepositoryNotFoundError):
        return f"{absent}, and the Hub has no such model, or this account may not read it: correct the name, or log in with `hf auth login`"
    return (
        f"{absent}, and it cannot be fetched ({_reason(error)}); fetch it on a machine with a network (hf download {path} --local-dir "
        "FOLDER) and give the folder: model.path=FOLDER"
    )


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
