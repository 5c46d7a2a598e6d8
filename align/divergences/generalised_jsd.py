from dataclasses import dataclass

import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class GeneralisedJsd(Divergence):
    """Generalised JSD of GKD, b KL(ref||m) + (1 - b) KL(pi||m) with m = b ref + (1 - b) pi: f(u) = (1 - b) u log(u/M) - b log M.

    Agarwal et al. 2306.13649, the reference its teacher; M = m/ref = b + (1 - b) u. b = 1/2 is the Jensen-Shannon divergence, half of
    `jensen_shannon`. The value vanishes as b -> 0 or 1, as does its pull: value/b -> KL(ref||pi) as b -> 0, value/(1 - b) -> KL(pi||ref)
    as b -> 1 (GKD's own code switches to these KLs there). Bounded by the entropy of b; grad_weight is (1 - b) log(u/M).
    """

    b: float = 0.5
    """Share of the reference in the mixture, (0, 1)."""

    def __post_init__(self):
        if not 0 < self.b < 1:
            raise ValueError(
                f"b must lie between 0 and 1, where the divergence vanishes, not {self.b}: say forward_kl for the limit "
                "of value/b at 0, reverse_kl for that of value/(1 - b) at 1"
            )

    def _logs(self, log_u: Tensor) -> tuple[Tensor, Tensor]:
        """log M and log(u/M)."""
        return closed_forms.log_mixture(log_u, 1 - self.b), -closed_forms.log_mixture(-log_u, self.b)

    def f(self, log_u: Tensor) -> Tensor:
        log_m, ratio = self._logs(log_u)
        return (1 - self.b) * torch.exp(log_u) * ratio - self.b * log_m

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return (1 - self.b) * self._logs(log_u)[1]

    def bregman(self, log_u: Tensor) -> Tensor:
        # f as a sum of what is positive: each KL's own Bregman form, at u/M and at M.
        log_m, ratio = self._logs(log_u)
        from_policy = torch.exp(closed_forms.within(log_m, above=1.0, factor=closed_forms.FACTOR)) * closed_forms.power_bregman(ratio, 0.0)
        return (1 - self.b) * from_policy + self.b * closed_forms.power_bregman(log_m, -1.0)

    def khat(self, log_u: Tensor) -> Tensor:
        log_m, ratio = self._logs(log_u)
        from_reference = torch.exp(-closed_forms.within(ratio, below=1.0, factor=closed_forms.FACTOR)) * closed_forms.power_khat(
            log_m, -1.0
        )
        return (1 - self.b) * closed_forms.power_khat(ratio, 0.0) + self.b * from_reference
