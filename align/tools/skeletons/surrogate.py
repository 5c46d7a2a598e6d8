"""A surrogate: the loss of each token whose gradient is a policy gradient.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: grpo, surrogate: "./skeleton.py:Skeleton"}
"""

import torch
from torch import Tensor

from align.core.credit import Packing
from align.surrogates import Surrogate, token_symbols


class Skeleton(Surrogate):
    """-min(rho, bound) A: the ratio up to a bound, beyond which a token has no gradient."""

    bound: float = 2.0

    def __post_init__(self):
        if self.bound <= 1:
            raise ValueError(f"bound must be above 1, not {self.bound}")

    def formula(self) -> str:
        """The maximised objective of a token."""
        return f"min(ρ, {self.bound:g}) A"

    def symbols(self) -> dict[str, str]:
        return token_symbols()

    def loss(self, log_rho: Tensor, advantages: Tensor, at: Packing) -> tuple[Tensor, Tensor]:
        """The loss, float32 [T], and where the bound cuts the gradient, bool [T]. Args: log_rho: log pi/pi_old, differentiable; at: the
        answer and the place of each token."""
        ratio = log_rho.exp()
        cut = ratio.detach() > self.bound
        return -torch.where(cut, self.bound, ratio) * advantages, cut

    def effective_log_ratio(self, log_rho: Tensor, at: Packing) -> Tensor:
        """log w [T], where the gradient is -w A grad log pi as long as the bound does not cut it."""
        return log_rho
