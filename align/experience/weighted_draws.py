"""Draws of examples by weights, without replacement: a function of seed, round and weights only, so a resumed run draws the same."""

from __future__ import annotations

import numpy as np

STREAM = 1
"""Tells these draws from the permutations of `example_indices`, which have the seed [seed, epoch]."""


def weighted_indices(number: int, count: int, weights: np.ndarray, seed: int) -> list[int]:
    """Indices of the examples of a round, in random order.

    They are drawn one after another, each with a probability proportional to its weight among those that are left; those of weight 0
    come last, uniformly. A round that is larger than the data has whole copies of it, and draws the rest.

    Args: number: of the round, from 0. weights: float64 [N], finite, at least 0.
    """
    rng = np.random.default_rng([seed, number, STREAM])
    copies, rest = divmod(count, len(weights))
    drawn = np.concatenate([np.tile(np.arange(len(weights)), copies), _in_order_drawn(weights, rng)[:rest]])
    # In the order drawn, the first minibatch would have the prompts of large weights, and so would the groups that `batch.refill` keeps.
    return rng.permutation(drawn).tolist()


def _in_order_drawn(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All indices in the order of such draws: the largest of log w + Gumbel noise is drawn with probability w / sum w."""
    drawable = weights > 0
    keys = np.log(np.where(drawable, weights, 1.0)) + rng.gumbel(size=len(weights))
    return np.lexsort((-keys, ~drawable))
