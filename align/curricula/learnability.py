from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from jaxtyping import Float64, Int64

from align.config.ranges import BelowOne
from align.curricula import PASS_RATE, Curriculum


@dataclass(frozen=True)
class Learnability(Curriculum):
    """The variance s (1 - s) of a pass: prompts that are sometimes solved come first (Foster et al. 2502.12272).

    A prompt that was never tried counts as s = 1/2, the largest weight. The paper draws a share of each batch uniformly from the prompts
    with the largest variance, measured by answers of their own; here the weight itself is the probability, and the rates are of the
    answers that are trained on.
    """

    least: Annotated[float, Interval(gt=0, lt=0.25)] = 0.01
    """The least weight, so that a prompt that is always or never solved is tried again: s = 1/2 has the weight 0.25."""
    memory: BelowOne = 0.5
    """The weight of the pass rate so far in that after a visit."""

    def formula(self) -> str:
        return f"max(s (1 − s), {self.least:g})"

    def symbols(self) -> dict[str, str]:
        return {"s": f"{PASS_RATE['s']}; 1/2 before the first visit"}

    def weights(self, passed: Float64[np.ndarray, " N"], tried: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        s = np.where(tried > 0, passed, 0.5)
        return np.maximum(s * (1 - s), self.least)
