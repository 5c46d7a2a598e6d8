"""How a step's work is cut for several workers: in order, so that the results join to the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from align.types import Group, Prompt


def prompt_shards(prompts: Sequence[Prompt], workers: int, seed: int) -> list[tuple[Sequence[Prompt], int]]:
    """Consecutive prompts and a seed for each worker; sizes differ by one at most, and none is empty.

    Each seed depends on `seed` and the shard's number only, so a shard may be drawn by any worker.
    """
    workers = min(workers, len(prompts))
    bounds = [len(prompts) * i // workers for i in range(workers + 1)] if workers else [0]
    return [(prompts[a:b], int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
            for i, (a, b) in enumerate(pairwise(bounds))]


def group_chunks(groups: Sequence[Group], answers: int) -> Iterator[list[Group]]:
    """Consecutive whole groups with at most `answers` rollouts together, or a single group with more."""
    chunk, count = [], 0
    for group in groups:
        if chunk and count + len(group.rollouts) > answers:
            yield chunk
            chunk, count = [], 0
        chunk.append(group)
        count += len(group.rollouts)
    if chunk:
        yield chunk
