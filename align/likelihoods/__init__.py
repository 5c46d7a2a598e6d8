"""Likelihoods: losses of demonstrations, one number a token, to be minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from align.config.formulas import Formulated
from align.types import TokenContext


class Likelihood(Formulated, ABC):
    """The contract. A formula says what is maximised."""

    stated = ("losses",)

    @abstractmethod
    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        """float32, differentiable through `ctx.logp`: of each token that a demonstration shows, from its own answer alone."""
