"""Recipe nodes that are changed in one place, with the folders they name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

from align.config.schema import Recipe


def sections(cls: type = Recipe, place: str = "") -> list[tuple[str, str, Any]]:
    """Every leaf of a recipe: its section, its name, its default."""
    found = []
    for f in dataclasses.fields(cls):
        if "section" in f.metadata:
            found += sections(f.metadata["section"], f"{place}.{f.name}".lstrip("."))
        else:
            found.append((place, f.name, f.default))
    return found


SECTIONS = {part for place, _, _ in sections() for part in place.split(".") if part}
START = {
    "steps": 2,
    "task": {"name": "countdown", "size": 8},
    "algorithm": "grpo",
    "reward": "countdown_wordy",
    "model": {"path": "{model}"},
    "batch": {"prompts": 4, "samples": 2},
    "sampling": {"max_tokens": 6},
    "optimizer": {"lr": 1e-2},
    "workers": {"backend": "local"},
    "evaluation": {"every": -1},
    "reward_limits": {"seconds": 0.02},
}


def merged(node: dict, change: dict) -> dict:
    """Sections key by key; anything else is replaced."""
    return node | {
        k: merged(node[k], v) if isinstance(v, dict) and isinstance(node.get(k), dict) and k in SECTIONS else v for k, v in change.items()
    }


def filled(node: Any, places: dict[str, str]) -> Any:
    """The node with its folders."""
    if isinstance(node, dict):
        return {k: filled(v, places) for k, v in node.items()}
    if isinstance(node, list):
        return [filled(v, places) for v in node]
    if isinstance(node, str):
        for name, path in places.items():
            node = node.replace(f"{{{name}}}", path)
    return node


def text(seen: Any) -> str:
    """Of anything that was seen, exactly; NaN is equal to itself."""

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.detach().tolist()
        return x.tolist() if hasattr(x, "tolist") else dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)

    return json.dumps(seen, default=plain, sort_keys=True)
