"""Weightings: how much a regularizer counts for each token. Computed once for the whole batch, detached, >= 0.

A weighting may look at the columns of the batch that it declares in `needs` (of `align.types.EARLY`), and at all columns that are not in
`EARLY`, such as tokens and lengths. `rewards` is what the reward said; `advantages` come after the shapings, and before the reward-placed
penalties.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from align.config.needed_columns import missing_column
from align.config.parts import Part, Setting
from align.types import REWARDED, Columns


class Weighting(Part, ABC):
    """The contract."""

    needs = frozenset[str]()
    """What `weights` reads of the batch, of `types.EARLY`. `old_logp` or `entropy` costs a forward pass where a batch serves one update,
    `ref_logp` the head of an exact reference once more; `rewards` or `advantages` is refused where the batch holds demonstrations."""

    signed = False
    """Its weights may be below 0, where the penalty drives the policy away from the reference; otherwise such a weight stops the run."""

    @abstractmethod
    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        """float32, >= 0 unless `signed`. `name` finds its own `ref_logp`; groups are whole."""

    def misfit(self, setting: Setting) -> str | None:
        charged = setting.recipe.algorithm.critic is not None and setting.regularizer.placement == "reward"
        if charged and REWARDED & self.needs:
            return (
                "looks at rewards or advantages, and with a critic the penalty comes before them: use placement: loss, or another weighting"
            )
        return missing_column("weighting", self, setting)
