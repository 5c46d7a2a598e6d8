from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers.fakes import wandb

from liveness import Change

CHANGES = {
    ("wandb", "project"): Change("another"),
    ("wandb", "entity"): Change("team"),
    ("wandb", "group"): Change("seeds"),
    ("wandb", "mode"): Change("offline"),
}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    """What stands in its folder, and what the module of W&B is told."""
    folder = Path(tempfile.mkdtemp(dir=places["folder"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", wandb)
        patch.setattr(wandb, "RUNS", [])
        writer = part.open(folder, "run", {"steps": 1}, 0)
        writer.write(1, {"loss": 0.5})
        writer.close(True)
        told = [[run.options | {"dir": ""}, run.rows, run.exit_code] for run in wandb.RUNS]
    return [told, len(list(folder.iterdir()))]
