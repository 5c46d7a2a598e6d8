"""Renamed or moved recipe keys, part names and methods of parts: the error for an old name gives the new one."""

from __future__ import annotations

import inspect
from typing import Any

from align.errors import RecipeError

CLIPS = {"clip_low": "surrogate", "clip_high": "surrogate"}
SMOOTHED = "preference: {name: cdpo, label_smoothing: ...} or {name: robust, ...}"
PARTS = {
    "grpo": CLIPS
    | {
        "ceiling": "surrogate: {name: dual_clip, ceiling: ...}",
        "temperature": "surrogate: {name: sapo, temperature: ...}",
        "temperature_negative": "surrogate: {name: sapo, temperature_negative: ...}",
    },
    "ppo": CLIPS | {"gamma": "advantage", "lam": "advantage", "whiten": "advantage"},
    "dpo": {"label_smoothing": SMOOTHED},
}
"""By algorithm and key: the part that has the key, or the YAML of that part."""
_REFUSE = "refuse(self, setting)`: see align.config.parts.Setting for what a part may look at"
METHODS = {
    "divergence": {"coefficient": "grad_weight(self, log_u)`", "generator": "bregman(self, log_u)`", "value": "khat(self, log_u)`"},
    "regularizer": {"charge": "reward_penalty(self, batch, name)`"},
    "estimator": {"coefficient": "grad_weight(self, divergence, log_u)`"},
    "running reference": {"prepare": "precompute(self, batch, temperature, logp)`"},
}
"""By kind of part, or of what its `start` returns, and old method: the new method."""
ANY_KIND = {"refusal": _REFUSE, "refuses_surrogate": _REFUSE}
WORDS = {
    "reduction": {"answer": "sequence_sum", "sequence": "sequence_mean"},
    "reward": {"exact": "countdown_exact", "loose": "countdown_loose", "wordy": "countdown_wordy"},
}
"""By kind of part: old names and new names."""


def refuse_moved(node: dict) -> None:
    """Raises RecipeError at an algorithm's key that has moved."""
    algorithm = node.get("algorithm")
    if not isinstance(algorithm, dict):
        return
    moved = PARTS.get(str(algorithm.get("name")), {})
    for key in algorithm:
        if key in moved:
            raise RecipeError(f"algorithm.{key}", f"is a key of the part that reads it: write algorithm.{_place(key, moved[key])}")


def refuse_moved_word(kind: str, word: str, where: str) -> None:
    """Raises RecipeError if a part of this kind has another name."""
    if (name := WORDS.get(kind, {}).get(word)) is not None:
        raise RecipeError(where, f"{word} is called {name}: write {where}: {name}")


def refuse_moved_methods(kind: str, found: type, where: str) -> None:
    """Raises RecipeError at an old method name in a user's part, which would never be called."""
    names = ANY_KIND | METHODS.get(kind, {})
    for method in (vars(cls)[name] for cls in found.__mro__ for name in names if inspect.isfunction(vars(cls).get(name))):
        place = f"{method.__code__.co_filename}:{method.__code__.co_firstlineno}"
        raise RecipeError(where, f"{place}: `{method.__name__}` is called `{names[method.__name__]}")


def _place(key: str, place: Any) -> str:
    return place if ":" in place else f"{place}: {{{key}: ...}}"
