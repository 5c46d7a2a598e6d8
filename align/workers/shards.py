"""How a step's work is cut for several workers, so that the results join to the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from align.engines import Engine, RunningEngine
from align.types import Group, Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """What one call of an engine generates."""

    places: Sequence[int]
    """Of its prompts among all prompts."""
    prompts: Sequence[Prompt]
    seeds: Sequence[int]


def prompt_seeds(count: int, seed: int) -> list[int]:
    """A seed for each place among `count` prompts, from `seed` and the place alone.

    62 bits: an engine may add the index of a sample and stay within int64.
    """
    return [int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:8]) >> 2 for place in range(count)]


def units(engine: Engine, prompts: Sequence[Prompt], samples: int, seed: int, workers: int) -> list[Unit]:
    """The calls that generate `samples` answers to each prompt. They depend on `workers` only where the engine makes its own batches."""
    seeds = prompt_seeds(len(prompts), seed)
    cut = engine.units([len(p.token_ids) for p in prompts], samples)
    return [
        Unit(places, [prompts[i] for i in places], [seeds[i] for i in places])
        for places in (evenly(range(len(prompts)), workers) if cut is None else cut)
    ]


def in_order(cut: Sequence[Unit], drawn: Sequence[Sequence[Group]]) -> list[Group]:
    """What the units gave, in the order of all prompts."""
    groups = {place: group for unit, own in zip(cut, drawn, strict=True) for place, group in zip(unit.places, own, strict=True)}
    return [groups[place] for place in range(len(groups))]


def generate(part: Engine, engine: RunningEngine, prompts: Sequence[Prompt], samples: int, seed: int, workers: int = 1) -> list[Group]:
    """What `workers` processes generate, by one engine in this process. `part`: what the engine was started by."""
    cut = units(part, prompts, samples, seed, workers)
    return in_order(cut, [engine.generate(unit.prompts, samples, unit.seeds) for unit in cut])


def idle(engine: Engine, prompts: int, samples: int, workers: int) -> str | None:
    """What to change where a step has less units than there are workers, or None."""
    count = len(engine.units([1] * prompts, samples) or range(workers))
    if count >= workers:
        return None
    return (
        f"a step's {prompts * samples:,} answers are generated in {count} unit{'s' if count > 1 else ''}, so {workers - count} of "
        f"{workers} rollout workers have nothing to do: lower workers.rollout, or the rows of a unit (engine.max_batch)"
    )


def evenly(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Consecutive items in at most so many parts; sizes differ by one at most, and none is empty."""
    parts = min(parts, len(items))
    bounds = [len(items) * i // parts for i in range(parts + 1)] if parts else [0]
    return [items[a:b] for a, b in pairwise(bounds)]


def group_chunks(groups: Sequence[Group], answers: int) -> Iterator[list[Group]]:
    """Consecutive whole groups with at most `answers` episodes together, or a single group with more."""
    chunk, count = [], 0
    for group in groups:
        if chunk and count + len(group.episodes) > answers:
            yield chunk
            chunk, count = [], 0
        chunk.append(group)
        count += len(group.episodes)
    if chunk:
        yield chunk
