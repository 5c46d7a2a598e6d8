from __future__ import annotations

from typing import Any

from liveness import Change
from liveness.runs import updated

CHANGES = {("*", "lr"): Change(1e-3), ("separate", "path"): Change("{scorer}")}


def probe(part: Any, places: dict[str, str], node: dict) -> Any:
    return updated({"algorithm": {"name": "ppo", "critic": node}, "optimizer": {"lr": 3e-2}}, places)
