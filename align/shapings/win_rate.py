from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.ranges import Positive
from align.core.reward_parts import by_group
from align.shapings import Shaping
from align.types import Columns


@dataclass(frozen=True)
class WinRate(Shaping):
    """The share of the other answers of its group that an answer beats: self-play, SPO (Swamy et al. 2401.04056).

    `r_i = mean over j != i of P(y_i > y_j)`, any policy update follows. Here P compares rewards: 1 for the larger, 1/2 for equal ones, or
    with a `temperature` the Bradley-Terry probability. A group of one gets 1/2. Only the order of rewards, or their differences within a
    group, then matters; a preference that is no function of rewards is a reward of your own with `score_groups`.
    """

    needs = frozenset({"rewards"})

    temperature: Positive | None = None
    """In units of reward: P = sigmoid((r_i - r_j)/temperature); null: the larger reward always wins."""

    def rewards(self, batch: Columns, rewards: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        rows, places = by_group(torch.stack([rewards, torch.ones_like(rewards)], 1), batch.group_ids)
        values, present = rows.unbind(2)
        difference = values[:, :, None] - values[:, None, :]
        wins = (difference.sign() + 1) / 2 if self.temperature is None else torch.sigmoid(difference / self.temperature)
        others = present[:, None, :] * (1 - torch.eye(rows.shape[1]))
        count = others.sum(2)
        share = torch.where(count > 0, (wins * others).sum(2) / count.clamp_min(1), 0.5)
        return share[batch.group_ids, places].to(rewards.dtype)
