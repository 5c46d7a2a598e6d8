"""Where randomness comes from: each prompt has its own, so its answers do not depend on what else is in the batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from align.types import Prompt


def prompt_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """One seed a prompt, from `seed`, the prompt's id, and how often the id came before in this batch.

    62 bits: an engine may add the index of a sample and stay within int64.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed}/{seen[prompt.id]}/{prompt.id}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 2)
        seen[prompt.id] += 1
    return seeds
