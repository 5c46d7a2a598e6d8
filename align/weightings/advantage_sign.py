from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting
from align.weightings._by_sign import by_sign, check


@dataclass(frozen=True)
class AdvantageSign(Weighting):
    """One weight for tokens of positive advantage, one for negative, one for zero (a group whose rewards are all equal)."""

    needs = frozenset({"advantages"})

    positive: float
    negative: float
    zero: float = 1.0

    def __post_init__(self):
        check(positive=self.positive, negative=self.negative, zero=self.zero)

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        return by_sign(batch.advantages, self.positive, self.negative, self.zero)
