import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from align.coefficients import State
from align.loss_weightings import LossWeighting
from align.types import Columns


@dataclass(frozen=True)
class TopEntropy(LossWeighting):
    """Only the tokens drawn from the most uncertain states count: 1 for the top `share` by entropy, else 0 (Wang et al. 2506.01939).

    Entropies are of pi_old, and the quantile is that of the whole batch, as in TRL's `top_entropy_quantile`. The reduction still counts
    every token, so fewer tokens make a smaller step.
    """

    needs = frozenset({"entropy"})
    of_tokens = True

    share: Annotated[float, Interval(gt=0, lt=1)] = 0.2

    def formula(self) -> str:
        return f"1 for the {self.share:.0%} of the batch's tokens with the largest H, else 0"

    def symbols(self) -> dict[str, str]:
        return {"H": "the entropy of π_old at the state before a token"}

    def of_batch(self, batch: Columns, state: State) -> Float[Tensor, "T"]:
        entropy = batch.entropy
        threshold = entropy.sort().values[math.ceil((len(entropy) - 1) * (1 - self.share) - 1e-9)]
        return (entropy >= threshold).float()
