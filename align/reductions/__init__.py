"""Reductions: one weight a token, fixed on all answers of an update, so the loss is a plain weighted sum however these are split.

The same weights serve the policy term and every regularizer; beta would change its meaning otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int64
from torch import Tensor

from align.config.formulas import Formulated


class Reduction(Formulated, ABC):
    """The contract. A formula writes n for the tokens of an answer and S for the answers of the batch."""

    stated = ("weights",)

    @abstractmethod
    def weights(self, lengths: Int64[Tensor, "S"], max_tokens: int) -> Float[Tensor, "S"]:
        """The weight of each token, by sequence: float32, > 0. Args: lengths of every answer that the update sees."""
