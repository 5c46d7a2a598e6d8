"""Tells the user when rewards carry no signal: the answers that are compared all have the same reward, step after step."""

from __future__ import annotations

import torch

from align.types import TokenBatch

IN_A_ROW = 3
"""Steps in a row without a signal after which a note is printed."""


class RewardSpread:
    """Counts consecutive steps in which all compared rewards were equal."""

    def __init__(self, by_group: bool):
        """Args: by_group: the advantage compares the answers to one prompt; otherwise those of the whole batch."""
        self._by_group, self._steps = by_group, 0

    def note(self, step: int, batch: TokenBatch) -> str | None:
        """What to tell the user after this step; None for a step with a signal, and after the first note until there is one again."""
        rewards = batch.rewards
        if rewards is None or not _equal(rewards, batch.group_ids if self._by_group else torch.zeros_like(batch.group_ids)):
            self._steps = 0
            return None
        self._steps += 1
        if self._steps != IN_A_ROW:
            return None
        compared = "all answers to a prompt" if self._by_group else "all answers"
        return (
            f"step {step}: in {IN_A_ROW} steps in a row {compared} had the same reward (on average {rewards.mean().item():.3g}), so there "
            "is no signal to learn from: a reward with partial credit, easier or harder prompts, or more batch.samples gives one"
        )


def _equal(rewards: torch.Tensor, ids: torch.Tensor) -> bool:
    """Whether all rewards [S] with the same id [S] are equal."""
    count = int(ids.max()) + 1
    lowest = torch.full((count,), torch.inf).scatter_reduce(0, ids, rewards.float(), "amin")
    highest = torch.full((count,), -torch.inf).scatter_reduce(0, ids, rewards.float(), "amax")
    present = lowest <= highest
    return bool((lowest == highest)[present].all())
