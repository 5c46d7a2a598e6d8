"""What the whole batch decides, once, before it is split: advantages, and who feels which regularizer how much."""

from __future__ import annotations

from dataclasses import replace

import torch

from align.recipe import Recipe
from align.types import TokenBatch


def shape(recipe: Recipe, batch: TokenBatch) -> TokenBatch:
    """The batch with its advantages [T], the weighting [T] of each active regularizer and the multipliers [S] of its coefficient."""
    batch = replace(batch, advantages=recipe.algorithm.advantages(batch))
    ones = torch.ones(len(batch.seq_ids))
    # One with beta 0 was not scored: there is no reference for its weighting to look at, and nothing to weigh.
    active = {name: r for name, r in recipe.regularizers.items() if batch.betas[name] > 0}
    weights = {name: ones if r.weighting is None else r.weighting.weights(batch, name) for name, r in active.items()}
    by_prompt = {name: r.coefficient.multipliers(batch.prompt_ids) for name, r in active.items()}
    multipliers = {name: torch.tensor(values) for name, values in by_prompt.items() if values is not None}
    return replace(batch, penalty_weights=weights, multipliers=multipliers)
