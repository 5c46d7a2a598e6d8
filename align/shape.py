"""What the whole batch decides, once, before it is split: advantages, and who feels which regularizer how much."""

from __future__ import annotations

from dataclasses import replace

import torch

from align.recipe import Recipe
from align.types import TokenBatch


def shape(recipe: Recipe, batch: TokenBatch) -> TokenBatch:
    """The batch with its advantages [T] and the weighting [T] of each regularizer."""
    batch = replace(batch, advantages=recipe.algorithm.advantages(batch))
    ones = torch.ones(len(batch.seq_ids))
    weights = {name: ones if r.weighting is None else r.weighting.weights(batch, name) for name, r in recipe.regularizers.items()}
    return replace(batch, penalty_weights=weights)
