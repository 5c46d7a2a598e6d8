"""How a step's work is cut for several workers: in order, so that the results join to the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from align.types import Group, Prompt

T = TypeVar("T")


def prompt_shards(prompts: Sequence[Prompt], workers: int, seed: int) -> list[tuple[Sequence[Prompt], int]]:
    """Consecutive prompts and a seed for each worker; sizes differ by one at most, and none is empty.

    Each seed depends on `seed` and the shard's number only, so a shard may be drawn by any worker.
    """
    return [(shard, int(np.random.SeedSequence([seed, i]).generate_state(1)[0])) for i, shard in enumerate(evenly(prompts, workers))]


def evenly(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Consecutive items in at most so many parts; sizes differ by one at most, and none is empty."""
    parts = min(parts, len(items))
    bounds = [len(items) * i // parts for i in range(parts + 1)] if parts else [0]
    return [items[a:b] for a, b in pairwise(bounds)]


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
