from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.parts import Setting
from align.config.ranges import Positive
from align.core.reward_parts import by_group, worst_case_weights
from align.experience.reward_parts import chosen_parts, missing_part
from align.shapings import Shaping
from align.types import Columns


@dataclass(frozen=True)
class WorstCaseRewards(Shaping):
    """The reward under the worst weights of its parts for each prompt: the training counterpart of RMOD (Son et al. 2503.08796).

    `max_pi min_w strength sum_k w_k E V_k - KL(pi||ref)`, w on the simplex: its inner problem is convex, w of a prompt minimises
    `log mean_i exp(strength w . V_i)` over its answers, and the reward becomes `w . V`. At the optimum the parts with weight have equal
    expected values under the tilted answers. The paper decodes with these weights, or distils the decoder. An answer that lacks a part
    takes no share in this and keeps its reward.
    """

    needs = frozenset({"reward_parts"})

    strength: Positive = 1.0
    """1/beta of the KL to the reference, per unit of reward."""
    parts: tuple[str, ...] = ()
    """Of the reward; empty: all."""

    def refuse(self, setting: Setting) -> str | None:
        return missing_part(setting, self.parts)

    def rewards(self, batch: Columns, rewards: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        _, values, weights, known = self._worst(batch)
        return torch.where(known, (weights[batch.group_ids] * values.nan_to_num(0.0)).sum(1), rewards)

    def metrics(self, batch: Columns, name: str) -> dict[str, float]:
        names, _, weights, _ = self._worst(batch)
        return {f"weight/{part}": weights[:, k].mean().item() for k, part in enumerate(names)}

    def _worst(self, batch: Columns) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
        """Names; values [S, K]; weights [G, K]; which answers have every part [S]."""
        names, values = chosen_parts(batch.reward_parts, self.parts, "shapings")
        known, ids = ~values.isnan().any(1), batch.group_ids
        rows, places = by_group(values.nan_to_num(0.0), ids)
        mask = torch.zeros(rows.shape[:2], dtype=torch.bool)
        mask[ids, places] = known
        return names, values, worst_case_weights(rows, mask, self.strength).to(values.dtype), known
