"""Whether the files of a model folder can be read at all, before an engine or a tokenizer is started on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from align.errors import UserError
from align.vocabulary.exported import refuse_damaged

INDEX = "model.safetensors.index.json"
REMEDY = "put back the file, or give another folder; a run writes its model again when its checkpoint is resumed without summary.json"


def check_files(folder: Path) -> None:
    """Raises UserError naming the first file of a model that is missing, cut short or not what its name says."""
    for file in sorted(folder.glob("*.json")):
        _json(file)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not any(folder.glob("*.bin")):
        raise UserError(f"{folder} holds no weights (no .safetensors file): {REMEDY}")
    if (folder / INDEX).is_file():
        named = _json(folder / INDEX).get("weight_map")
        for name in sorted(set(named.values()) if isinstance(named, dict) else ()):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing, and {INDEX} names it: {REMEDY}")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}): {REMEDY}") from error
    refuse_damaged(folder, "--model")


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}): {REMEDY}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged (it is no mapping): {REMEDY}")
    return found
