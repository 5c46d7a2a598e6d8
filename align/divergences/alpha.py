from dataclasses import dataclass

from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class Alpha(Divergence):
    """The alpha-divergence of f-DPO: f(u) = (u^(1-alpha) - (1 - alpha) u - alpha)/(alpha (alpha - 1)), alpha in (0, 1).

    Wang et al. 2309.16240, table 1; f'(u) = (1 - u^(-alpha))/alpha. alpha -> 0 is KL(pi||ref), alpha -> 1 is KL(ref||pi), and between
    them it equals D^q/q of Tsallis with q = 1 - alpha. TRL counts from the other end: alpha_TRL = 1 - alpha. The gradient weight is
    at most 1/alpha, so the pull saturates on tokens the policy favours.
    """

    alpha: float = 0.5
    """Paper's convention: 0 is reverse, 1 is forward KL."""

    def __post_init__(self):
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 (reverse_kl) and 1 (forward_kl), not {self.alpha}; TRL's alpha is 1 - alpha")

    def f(self, log_u: Tensor) -> Tensor:
        return self.bregman(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u)

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_slope(log_u, -self.alpha)

    def bregman(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_bregman(log_u, -self.alpha)

    def khat(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_khat(log_u, -self.alpha)
