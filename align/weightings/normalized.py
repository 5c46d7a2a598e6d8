from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from align.config.nodes import part
from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class Normalized(Weighting):
    """Another weighting, scaled so that its mean over the batch's tokens is 1: `{name: normalized, of: {name: entropy_gate, ...}}`.

    With a 0/1 mask and the `token` reduction the penalty is then the mean over the kept tokens. Where all weights are 0 they stay so.
    """

    of: Any = part("weighting")
    """The weighting that is scaled."""

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def signed(self) -> bool:
        return self.of.signed

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        weights = self.of.weights(batch, name)
        mean = weights.mean()
        return weights / mean if mean > 0 else weights
