from dataclasses import dataclass

import torch
from torch import Tensor

from align.core import closed_forms
from align.divergences import Divergence


@dataclass(frozen=True)
class SkewKl(Divergence):
    """Skew KL(ref||lam ref + (1 - lam) pi) of DistiLLM, the reference its teacher: f(u) = -log M, M = lam + (1 - lam) u.

    Ko et al. 2402.03898. lam = 0 is KL(ref||pi), lam -> 1 vanishes. The reference in the mixture bounds it by log(1/lam) and its
    grad_weight from below by -(1 - lam)^2/lam, so forward KL loses its tail, and its guarantee that no answer is dropped.
    """

    lam: float = 0.1
    """Share of the reference in the mixture, [0, 1)."""

    def __post_init__(self):
        if not 0 <= self.lam < 1:
            raise ValueError(f"lam must be at least 0 (forward_kl) and below 1, where nothing is left of the divergence, not {self.lam}")

    @property
    def full_support(self) -> bool:
        return self.lam == 0

    def _logs(self, log_u: Tensor) -> tuple[Tensor, Tensor]:
        """log M and log(M/u)."""
        return closed_forms.log_mixture(log_u, 1 - self.lam), closed_forms.log_mixture(-log_u, self.lam)

    def f(self, log_u: Tensor) -> Tensor:
        return -self._logs(log_u)[0]

    def f_prime(self, log_u: Tensor) -> Tensor:
        return -(1 - self.lam) * torch.exp(-closed_forms.within(self._logs(log_u)[0], below=1.0))

    def grad_weight(self, log_u: Tensor) -> Tensor:
        return -(1 - self.lam) * torch.expm1(-closed_forms.within(self._logs(log_u)[0], below=1.0))

    def bregman(self, log_u: Tensor) -> Tensor:
        # The line f'(1)(u - 1) is that of -log M in M: forward KL's Bregman form at M.
        return closed_forms.power_bregman(self._logs(log_u)[0], -1.0)

    def khat(self, log_u: Tensor) -> Tensor:
        log_m, log_m_u = self._logs(log_u)
        return torch.exp(closed_forms.within(log_m_u, above=1.0, factor=closed_forms.FACTOR)) * closed_forms.power_khat(log_m, -1.0)
