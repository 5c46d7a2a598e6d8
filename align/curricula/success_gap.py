from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from jaxtyping import Float64, Int64

from align.config.ranges import BelowOne
from align.curricula import PASS_RATE, Curriculum


@dataclass(frozen=True)
class SuccessGap(Curriculum):
    """The gap 1 - s to a pass: the more a prompt fails, the more it is drawn (prioritized sampling of Kimi k1.5, 2501.12599).

    A prompt that was never tried counts as s = 0. The paper states the proportionality to 1 - s alone; the floor and the average over
    visits are of this part.
    """

    least: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    """The least weight, so that a prompt that is always solved is tried again: one that never is has the weight 1."""
    memory: BelowOne = 0.5
    """The weight of the pass rate so far in that after a visit."""

    def formula(self) -> str:
        return f"max(1 − s, {self.least:g})"

    def symbols(self) -> dict[str, str]:
        return {"s": f"{PASS_RATE['s']}; 0 before the first visit"}

    def weights(self, passed: Float64[np.ndarray, " N"], tried: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        s = np.where(tried > 0, passed, 0.0)
        return np.maximum(1 - s, self.least)
