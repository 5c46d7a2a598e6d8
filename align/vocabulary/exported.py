"""A model folder that a run has written has a manifest, by which damage to it is noticed where it is used."""

from __future__ import annotations

import json
from pathlib import Path

from align import manifest
from align.disk import writing
from align.errors import UserError

ADAPTER = "adapter"
"""The folder of a LoRA run's adapter, in that of its merged model."""


def seal(folder: Path) -> None:
    """Write the manifest of a model folder whose files are complete, and that of its adapter. Raises WriteFailed."""
    with writing(f"the manifest of the model {folder}"):
        for inner in (folder / ADAPTER, folder):
            if inner.is_dir():
                manifest.write(inner, manifest.entries(inner))


def refuse_damaged(folder: str | Path, where: str) -> None:
    """Raises UserError naming the first file of a model folder that is not what its manifest says.

    A folder without a manifest, or with one of another program, is not looked at: those of the hub and of other trainers have none.
    """
    folder = Path(folder)
    if not _ours(folder / manifest.FILE):
        return
    try:
        manifest.verified(folder)
    except manifest.Damaged as error:
        raise UserError(
            f"{where}: the model in {folder} is damaged: {error}; put back the file, or write the model again: resume its run after "
            f"deleting its summary.json. If you changed the file on purpose, delete {folder / manifest.FILE}"
        ) from error


def _ours(file: Path) -> bool:
    """Whether a file is a manifest of align, whole or not."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return True  # one that is cut short is JSON of no program
    return isinstance(found, dict) and "files" in found and "sha256" in found
