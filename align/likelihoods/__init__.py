"""Likelihoods: losses of demonstrations, one number a token, to be minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from align.config.formulas import Formulated
from align.contexts import TokenContext


class Likelihood(Formulated, ABC):
    """The contract. A formula says what is maximised."""

    stated = ("losses",)
    row_fields = frozenset[str]()
    """Fields that every row of the data must have; of these, `teacher_logp` becomes a column of the batch."""

    @property
    def rescaled(self) -> float | None:
        """A temperature, as a factor on the recipe's own: `ctx.rescaled_logp` is log pi at it, which costs a second pass of the head. None:
        no second pass."""
        return None

    @abstractmethod
    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        """float32, differentiable through `ctx.logp` and `ctx.rescaled_logp`: of each token that a demonstration shows, from its own answer
        alone."""
