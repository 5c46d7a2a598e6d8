from dataclasses import dataclass

import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class SkewReverseKl(Divergence):
    """Skew KL(pi||(1 - lam) ref + lam pi) of DistiLLM, the reference its teacher: f(u) = u log(u/M), M = (1 - lam) + lam u.

    Ko et al. 2402.03898. lam = 0 is KL(pi||ref), lam -> 1 vanishes. The policy in the mixture bounds it by log(1/lam), and the pull
    on tokens the reference does not know; f'(0+) = -inf as in reverse KL.
    """

    lam: float = 0.1
    """Share of the policy in the mixture, [0, 1)."""

    def __post_init__(self):
        if not 0 <= self.lam < 1:
            raise ValueError(f"lam must be at least 0 (reverse_kl) and below 1, where nothing is left of the divergence, not {self.lam}")

    def _log_ratio(self, log_u: Tensor) -> Tensor:
        """log(u/M)."""
        return -closed_forms.log_mixture(-log_u, 1 - self.lam)

    def f(self, log_u: Tensor) -> Tensor:
        return torch.exp(log_u) * self._log_ratio(log_u)

    def f_prime(self, log_u: Tensor) -> Tensor:
        return self.grad_weight(log_u) + 1 - self.lam

    def grad_weight(self, log_u: Tensor) -> Tensor:
        ratio = self._log_ratio(log_u)
        # log(u/M) - lam (u/M - 1), whose two terms cancel as lam -> 1. Without skew u/M is unbounded, and 0 * inf no number.
        return (1 - self.lam) * ratio - self.lam * closed_forms.power_khat(-ratio, 0.0) if self.lam else ratio

    def bregman(self, log_u: Tensor) -> Tensor:
        # u - M = (1 - lam)(u - 1), so this is M times reverse KL's Bregman form at u/M.
        log_m = closed_forms.within(closed_forms.log_mixture(log_u, self.lam), above=1.0, factor=closed_forms.FACTOR)
        return torch.exp(log_m) * closed_forms.power_bregman(self._log_ratio(log_u), 0.0)

    def khat(self, log_u: Tensor) -> Tensor:
        return closed_forms.power_khat(self._log_ratio(log_u), 0.0)
