"""Random rollouts: four prompts, three answers each, of the tiny tokenizer's tokens."""

import numpy as np

from align.types import Episode, Group, Prompt


def groups(seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(
            prompt=Prompt(id=str(g), text="", token_ids=tuple(rng.integers(3, 26, rng.integers(2, 7)).tolist())),
            episodes=tuple(Episode.single_turn(rng.integers(2, 26, rng.integers(1, 7)).astype(np.int32), "") for _ in range(3)),
        )
        for g in range(4)
    ]
