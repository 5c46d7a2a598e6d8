from __future__ import annotations

from typing import Any

import numpy as np

from align.run.curriculum import checked_weights
from align.run.pass_rates import PassRates
from align.types import Episode, Group, Prompt, Rewards

REQUIRED: dict[str, Any] = {}
CHANGES: dict[str, Any] = {}
VISITS = ([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
"""Rewards of three visits of a prompt; another prompt has the last one alone."""


def probe(part: Any, **_) -> Any:
    rates, episode = PassRates(part.memory, 1.0), Episode.single_turn(np.array([5], dtype=np.int32), "")
    seen = []
    for step, rewards in enumerate(VISITS):
        prompt = Prompt(id="0" if step < 2 else "1", text="", token_ids=(3,))
        rates.record(step, step, [Group(prompt=prompt, episodes=(episode,) * 4)], Rewards(values=np.array(rewards, dtype=np.float32)))
        seen.append(checked_weights(part, *rates.before(step + 1, ["0", "1", "2"])))
    return seen
