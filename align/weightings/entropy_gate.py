from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class EntropyGate(Weighting):
    """Only tokens at which pi_old was undecided feel it, or only those at which it was sure: weight 1 or 0 by entropy.

    `keep: high` takes the entropies at or above the cut, `keep: low` those below, so that the two share out all tokens.
    Wang et al. 2506.01939 cut at the quantile 0.8 (they gate the policy term; gating a regularizer is our use of it).
    """

    needs = frozenset({"entropy"})

    keep: str
    """`high` or `low`."""
    quantile: float | None = None
    """The cut as a quantile of the batch's entropies, in (0, 1). Exactly one of this and `threshold`."""
    threshold: float | None = None
    """The cut in nats a token."""

    def __post_init__(self):
        if self.keep not in ("high", "low"):
            raise ValueError(f"keep must be high or low, not {self.keep!r}")
        if (self.quantile is None) == (self.threshold is None):
            raise ValueError("needs exactly one of quantile and threshold")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie in (0, 1), not {self.quantile}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"threshold must be positive, not {self.threshold}")

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        # torch.quantile refuses more than 2^24 elements, which a large batch has.
        cut = self.threshold if self.quantile is None else float(np.quantile(batch.entropy.numpy(), self.quantile))
        assert cut is not None  # exactly one of the two is given
        high = batch.entropy >= cut
        return (high if self.keep == "high" else ~high).to(torch.float32)
