"""Preferences: losses of ranked answers, from the scores of the answers, to be minimised.

The scores are a reward model's, or those of a link (core/links.py): for KL(pi||ref) the log-ratios log pi/ref of whole answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from align.config.formulas import Formulated
from align.config.returned import Returned
from align.core import ranking
from align.core.segments import segment_sum

WHERE = "algorithm.preference"
"""The key of a preference in every algorithm that has one."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P times a better and a worse answer to one prompt."""

    better: Float[Tensor, "P"]
    """Scores, differentiable."""
    worse: Float[Tensor, "P"]
    beta: Float[Tensor, "P"]
    """> 0: the coefficient of the link; 1 for the scores of a reward model."""
    better_length: Int64[Tensor, "P"]
    """Tokens."""
    worse_length: Int64[Tensor, "P"]
    better_logp: Float[Tensor, "P"] | None = None
    """log pi of the whole answer, nats, differentiable; None where no policy is trained."""
    worse_logp: Float[Tensor, "P"] | None = None
    better_log_ratio: Float[Tensor, "P"] | None = None
    """log pi/ref of the whole answer, nats, detached; None without a link."""
    worse_log_ratio: Float[Tensor, "P"] | None = None

    @property
    def margin(self) -> Float[Tensor, "P"]:
        """better - worse: beta times this is the difference of the implicit rewards."""
        return self.better - self.worse


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """S answers in G rankings. Those of a ranking stand next to each other, the best first."""

    scores: Float[Tensor, "S"]
    """Differentiable."""
    beta: Float[Tensor, "S"]
    """The same for the answers of one ranking."""
    lengths: Int64[Tensor, "S"]
    """Tokens."""
    ids: Int64[Tensor, "S"]
    """0 to G - 1, not decreasing: the ranking of each answer."""
    logp: Float[Tensor, "S"] | None = None
    """See Pairs."""
    log_ratio: Float[Tensor, "S"] | None = None
    """See Pairs."""

    def pairs(self) -> tuple[Pairs, Int64[Tensor, "P"]]:
        """Every two answers of a ranking, and which ranking each pair is of."""
        better, worse = ranking.pairs(self.ids)
        given = {
            f"{side}_{name}": getattr(self, name)[rows]
            for side, rows in (("better", better), ("worse", worse))
            for name in ("logp", "log_ratio")
            if getattr(self, name) is not None
        }
        return Pairs(
            better=self.scores[better],
            worse=self.scores[worse],
            beta=self.beta[better],
            better_length=self.lengths[better],
            worse_length=self.lengths[worse],
            **given,
        ), self.ids[better]


class Preference(Formulated, ABC):
    """The contract. A formula says what is maximised of a pair: s_w and s_l are the scores of the better and the worse answer."""

    stated = ("losses", "of_rankings")

    @abstractmethod
    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        """Differentiable through the scores and log-probs: of each pair by itself."""

    def of_rankings(self, rankings: Rankings) -> Float[Tensor, "G"]:
        """The mean over the pairs of each ranking, unless the loss is one of whole rankings."""
        pairs, of = rankings.pairs()
        losses = Returned(self, "losses", WHERE).numbers(self.losses(pairs), len(of), "one for each pair of answers")
        return segment_sum(losses, of, int(rankings.ids.max()) + 1) / torch.bincount(of)

    def of_answers(self, rankings: Rankings, count: int) -> Float[Tensor, "S"]:
        """At each answer the loss of its ranking, of which there are `count`. Raises RecipeError for losses of another shape."""
        found = Returned(self, "of_rankings", WHERE).numbers(self.of_rankings(rankings), count, "one for each ranking")
        return found[rankings.ids]


def check_smoothing(label_smoothing: float) -> None:
    """Raises ValueError for what is no probability of a label that is the wrong way round."""
    if not 0 < label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing must lie in (0, 1/2), not {label_smoothing}: at 1/2 the labels say nothing, and 0 is preference: sigmoid"
        )
