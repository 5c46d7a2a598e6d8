"""What the whole batch decides, once, before it is split: advantages, and who feels which regularizer how much."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from align.recipe import Recipe
from align.shapings import Shaping
from align.types import TokenBatch


def shape(recipe: Recipe, batch: TokenBatch) -> TokenBatch:
    """The batch with its advantages [T], the weighting [T] of each active regularizer and the multipliers [S] of its coefficient."""
    rewards, metrics = batch.rewards, {}
    for name, shaping in recipe.shapings.items():
        before, rewards = rewards, shaping.rewards(batch, rewards)
        metrics |= _change(shaping, "rewards", f"shaping/{name}", before, rewards)
    advantages = recipe.algorithm.advantages(replace(batch, rewards=rewards))
    for name, shaping in recipe.shapings.items():
        before, advantages = advantages, shaping.advantages(batch, advantages, name)
        metrics |= _change(shaping, "advantages", f"shaping/{name}", before, advantages)
        metrics |= {f"shaping/{name}/{key}": value for key, value in shaping.metrics(batch, name).items()}
    batch = replace(batch, advantages=advantages, shaped=metrics)
    ones = torch.ones(len(batch.seq_ids))
    # One with beta 0 was not scored: there is no reference for its weighting to look at, and nothing to weigh.
    active = {name: r for name, r in recipe.regularizers.items() if batch.betas[name] > 0}
    weights = {name: ones if r.weighting is None else r.weighting.weights(batch, name) for name, r in active.items()}
    by_prompt = {name: r.coefficient.multipliers(batch.prompt_ids) for name, r in active.items()}
    multipliers = {name: torch.tensor(values) for name, values in by_prompt.items() if values is not None}
    return replace(batch, penalty_weights=weights, multipliers=multipliers)


def _change(shaping: Shaping, what: str, place: str, before: Tensor, after: Tensor) -> dict[str, float]:
    """Mean change of the rewards [S] or advantages [T], and the share of them that changed; nothing where the shaping leaves them alone."""
    if getattr(type(shaping), what) is getattr(Shaping, what):
        return {}
    return {f"{place}/{what}": (after - before).mean().item(), f"{place}/share/{what}": (after != before).float().mean().item()}
