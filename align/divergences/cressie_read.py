import math
from dataclasses import dataclass

from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class CressieRead(Divergence):
    """Power divergence CR(pi||ref) = (sum pi u^power - 1)/(power (power + 1)): f(u) = (u^(power+1) - u)/(power (power + 1)).

    Cressie and Read, J. R. Stat. Soc. B 46 (1984). Every divergence of the family has the same strength near the reference,
    f''(1) = 1: it equals D^q/q of Tsallis with q = 1 + power. Any real power: 0 is KL(pi||ref), -1 KL(ref||pi), 1 half Pearson's and
    -2 half Neyman's chi-squared, -1/2 twice the squared Hellinger distance. Heavy-tailed above 1 and below -1: float32 holds value
    and `grad_weight` for log u between 88/min(power, -1) and 88/max(power, 1). f is taken with f'(1) = 0, which exists at the limits too.
    """

    power: float = 2 / 3
    """lambda; Cressie and Read advise 2/3."""

    def __post_init__(self):
        if not math.isfinite(self.power):
            raise ValueError(f"power must be a finite number, not {self.power}")

    @property
    def full_support(self) -> bool:
        return self.power <= 0

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_slope(log_u, self.power)

    def bregman(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_bregman(log_u, self.power)

    def khat(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_khat(log_u, self.power)
