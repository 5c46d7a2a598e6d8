"""Surrogates: losses of log pi/pi_old and the advantage whose gradient is a policy gradient. Per token, to be minimised.

`policy_loss` in `align/algorithms/__init__.py` calls them, for `grpo` and `ppo`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor

from align.config.formulas import Formulated
from align.core.credit import Packing


class Surrogate(Formulated, ABC):
    """The contract. Its bounds are keys of its own.

    `log_rho` is log pi/pi_old of each token, nats; `at` says where each token sits; a formula writes rho for the ratio and A for the
    advantage, and says what is maximised. Loss and gradient are finite for every finite log_rho: `closed_forms.ratio_of` is a ratio that
    stops growing at the largest number of its type.
    """

    stated = ("loss",)

    @abstractmethod
    def loss(
        self, log_rho: Float[Tensor, "T"], advantages: Float[Tensor, "T"], at: Packing
    ) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
        """The loss of each token, and where a bound cut the gradient or held the weight back, detached.

        Args: log_rho, differentiable; advantages, detached.
        """

    @abstractmethod
    def effective_log_ratio(self, log_rho: Float[Tensor, "T"], at: Packing) -> Float[Tensor, "T"]:
        """log w, nats, where the gradient of the loss is -w A grad log pi as long as no bound cuts it.

        A penalty in the reward is divided by w, so that its strength is that of the same penalty in the loss. `log_rho` is detached.
        """

    @property
    def ratio_varies(self) -> str | None:
        """Why w is not one number for every advantage, or None. A weighted penalty in the reward is then refused off-policy."""
        return None


def token_symbols() -> dict[str, str]:
    return {"ρ": "π/π_old of the token"}
