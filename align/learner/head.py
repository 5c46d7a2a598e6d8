"""Can the head's backend do what a recipe asks? Told before anything is trained."""

from __future__ import annotations

from typing import Any

import torch

from align.errors import UserError
from align.recipe import Recipe
from align_kernels.backends import rows


def stop_unless_ready(recipe: Recipe, device: torch.device) -> None:
    """Makes every kernel's source. Raises UserError at `head.backend`, or at the divergence that cannot become a kernel."""
    try:
        backend = rows(recipe.head.backend, torch.empty(0, device=device))
    except ValueError as error:
        raise UserError(f"head.backend: {error}") from error
    for where, divergence in _over_the_vocabulary(recipe).items():
        try:
            backend.form(divergence, torch.float32)
        except ValueError as error:
            raise UserError(f"{where}: {error}\nhead.backend: torch runs it as it is written") from error


def _over_the_vocabulary(recipe: Recipe) -> dict[str, Any]:
    """The divergences that are summed over the vocabulary, by the key that names them."""
    found = {f"regularizers.{name}.divergence": r.divergence for name, r in recipe.regularizers.items() if r.full_vocabulary}
    return found | {f"shapings.{name}": s.context_divergence for name, s in recipe.shapings.items()
                    if s.context_divergence is not None}
