from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting
from align.weightings._by_sign import by_sign, check


@dataclass(frozen=True)
class LogRatioSign(Weighting):
    """One weight for tokens that pi_old finds likelier than the reference does, one for less likely, one for equally likely.

    Where pi_old is the policy, the `sampled` estimator makes of it another f-divergence: its generator is the Bregman form of f,
    times `above` for u > 1 and times `below` for u < 1, convex and smooth at 1 (derived, not from a paper).
    """

    needs = frozenset({"old_logp", "ref_logp"})

    above: float
    """Where log pi_old > log ref."""
    below: float
    """Where log pi_old < log ref."""
    equal: float = 1.0

    def __post_init__(self):
        check(above=self.above, below=self.below, equal=self.equal)

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        return by_sign(batch.old_logp - batch.ref_logp[name], self.above, self.below, self.equal)
