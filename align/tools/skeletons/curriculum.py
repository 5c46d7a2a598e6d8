"""A curriculum: which training prompts a step draws, by the pass rates of their answers so far.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    curriculum: "./skeleton.py:Skeleton"
"""

import numpy as np

from align.curricula import PASS_RATE, Curriculum


class Skeleton(Curriculum):
    """Prompts whose pass rate is near the target are drawn more; one that was never tried is drawn as one at the target."""

    target: float = 0.5
    width: float = 0.25

    def __post_init__(self):
        if not self.width > 0:
            raise ValueError(f"width must be above 0, not {self.width}")

    def formula(self) -> str:
        return f"exp(−((s − {self.target:g})/{self.width:g})²)"

    def symbols(self) -> dict[str, str]:
        return PASS_RATE

    def weights(self, passed: np.ndarray, tried: np.ndarray) -> np.ndarray:
        """Float64 [N], finite, at least 0 and not all 0. `passed`: [N], NaN where `tried`, the number of answers [N], is 0."""
        rate = np.where(tried > 0, passed, self.target)
        return np.exp(-(((rate - self.target) / self.width) ** 2))
