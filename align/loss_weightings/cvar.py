import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from align.loss_weightings import EXAMPLE_LOSS, LossWeighting


@dataclass(frozen=True)
class Cvar(LossWeighting):
    """The mean of the worst `fraction` of the losses: CVaR_mu = min_t t + mean (l - t)_+ / mu (Rockafellar and Uryasev 2000).

    Losses above the quantile t weigh 1/mu and those below it 0. Those at t share what is left of the weight equally, so that the
    weights have the mean 1 and their weighted mean is exactly CVaR, also where mu S is no whole number.
    """

    fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.2
    """mu, of the examples of an update."""

    def formula(self) -> str:
        return f"1/{self.fraction:g} for the worst {self.fraction:.0%} of the examples of an update by l, else 0"

    def symbols(self) -> dict[str, str]:
        return EXAMPLE_LOSS

    def of_losses(self, losses: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        worst = self.fraction * len(losses)
        quantile = losses.sort(descending=True).values[min(math.ceil(worst - 1e-9), len(losses)) - 1]
        above, at = (losses > quantile).to(losses), (losses == quantile).to(losses)
        return (above + at * (worst - above.sum()) / at.sum()) / self.fraction
