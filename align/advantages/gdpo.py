from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.advantages import Advantage
from align.config.parts import Setting
from align.core.reward_parts import standardised
from align.experience.reward_parts import chosen_parts, missing_part
from align.types import Columns


@dataclass(frozen=True)
class Gdpo(Advantage):
    """Each part of the reward standardised in its group, their weighted sum standardised over the batch (GDPO, Liu et al. 2601.05242).

    A part with a small spread then counts as much as one with a large spread. std is unbiased, as in TRL's `normalize_then_sum`. A part
    that an answer lacks counts 0 for it; an answer without any gets 0. The value of the whole reward is not read.
    """

    needs = frozenset({"reward_parts"})
    least_samples = 2

    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """By part; empty: 1 for every part. Parts that it does not name do not count."""
    eps: float = 1e-4
    """Added to both standard deviations."""

    def __post_init__(self):
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights must not all be 0: every advantage would be 0")
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, not {self.eps}: among equal rewards the standard deviation is 0")

    def refuse(self, setting: Setting) -> str | None:
        return missing_part(setting, tuple(self.weights))

    def formula(self) -> str:
        terms = " + ".join(f"{weight:g} z[{name}]" for name, weight in self.weights.items()) or "Σ_k z[k]"
        of_part = f"z[k] = (r_k − mean)/(std + {self.eps:g}) of part k over its group"
        return f"(x − mean)/(std + {self.eps:g}) over the batch, x = {terms}, {of_part}"

    def advantages(self, batch: Columns) -> Float[Tensor, "T"]:
        names, parts = chosen_parts(batch.reward_parts, tuple(self.weights), "algorithm.advantage")
        weights = torch.tensor([self.weights.get(name, 1.0) for name in names], dtype=parts.dtype)
        total = standardised(parts, batch.group_ids, self.eps) @ weights
        known = ~parts.isnan().all(1)
        centred = torch.where(known, total - total[known].sum() / known.sum().clamp_min(1), 0.0)
        std = (centred.square().sum() / (known.sum() - 1).clamp_min(1)).sqrt()
        return (centred / (std + self.eps))[batch.seq_ids]
