"""The weights by which a curriculum draws the prompts of a step, checked, and their metrics."""

from __future__ import annotations

import numpy as np

from align.config.returned import Returned
from align.curricula import Curriculum


def checked_weights(curriculum: Curriculum, passed: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """The weights of all prompts, float64 [N]. Raises RecipeError for any that break the contract. Args: as `Curriculum.weights`."""
    returned, found = Returned(curriculum, "weights", "curriculum"), curriculum.weights(passed, tried)
    wanted = f"float64 [{len(passed)}], one for each training prompt"
    if not isinstance(found, np.ndarray):
        returned.refuse(f"{found!r:.60}", wanted)
    if found.shape != passed.shape or found.dtype != np.float64:
        returned.refuse(f"{found.dtype} {list(found.shape)}", wanted)
    right = np.isfinite(found) & (found >= 0)
    if not right.all():
        returned.refuse(
            f"{found[~right][0]:.4g} at {(~right).sum()} of {found.size} places", "finite and >= 0, one for each training prompt"
        )
    if not found.any():
        returned.refuse("0 for every prompt", "above 0 for at least one prompt")
    return found


def curriculum_metrics(weights: np.ndarray, tried: np.ndarray, passed: np.ndarray) -> dict[str, float]:
    """Metrics of the draws of a step; `curriculum/pass_rate` is left out if no prompt that was drawn had been tried.

    Args: weights: [N]. tried: [N], of all prompts. passed: [drawn], the rates that the prompts had when they were drawn.
    """
    share = weights / weights.max()
    share = share[share > 0] / share.sum()
    had = passed[~np.isnan(passed)]
    return ({"curriculum/pass_rate": float(had.mean())} if len(had) else {}) | {
        "curriculum/tried": float((tried > 0).mean()),
        "curriculum/effective_prompts": float(np.exp(-(share * np.log(share)).sum())),
    }
