"""Keys that a recipe once had, and where each of them is: an old recipe is refused with the words that it needs."""

from __future__ import annotations

from typing import Any

from align.errors import RecipeError

CLIPS = {"clip_low": "surrogate", "clip_high": "surrogate"}
SMOOTHED = "preference: {name: cdpo, label_smoothing: ...} or {name: robust, ...}"
PARTS = {
    "grpo": CLIPS | {"ceiling": "surrogate: {name: dual_clip, ceiling: ...}", "temperature": "surrogate: {name: sapo, temperature: ...}",
                     "temperature_negative": "surrogate: {name: sapo, temperature_negative: ...}"},
    "ppo": CLIPS | {"gamma": "advantage", "lam": "advantage", "whiten": "advantage"},
    "dpo": {"label_smoothing": SMOOTHED},
}
"""By algorithm and key: the part whose key it is, or how that part is written."""
REDUCTIONS = {"answer": "sequence_sum", "sequence": "sequence_mean"}


def refuse_moved(node: dict) -> None:
    """Raises RecipeError at a key or word of the algorithm that has another place or name."""
    algorithm = node.get("algorithm")
    if not isinstance(algorithm, dict):
        return
    name = algorithm.get("name")
    for key in algorithm:
        if key in PARTS.get(name, {}):
            raise RecipeError(f"algorithm.{key}", f"is a key of the part that reads it: write algorithm.{_place(key, PARTS[name][key])}")
    reduction = algorithm.get("reduction")
    word = reduction.get("name") if isinstance(reduction, dict) else reduction
    if isinstance(word, str) and word in REDUCTIONS:
        raise RecipeError("algorithm.reduction", f"{word} is called {REDUCTIONS[word]}: write algorithm.reduction: {REDUCTIONS[word]}")


def _place(key: str, place: Any) -> str:
    return place if ":" in place else f"{place}: {{{key}: ...}}"
