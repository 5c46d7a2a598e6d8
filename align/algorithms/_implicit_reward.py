"""Losses that fit the implicit reward of whole answers to their reward, up to one constant a prompt."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from align.algorithms import at_first_tokens
from align.algorithms._of_answers import OfAnswers
from align.contexts import TokenContext
from align.core.segments import group_mean, segment_sum


class ImplicitReward(OfAnswers):
    """The base: `h = beta s - R` of each answer, s the score of the link, R the shaped reward; 0 spread of h in a group is the optimum.

    The optimum of `E[R] - beta D_f(pi||ref)` over whole answers has `beta f'(u) = R - lambda` with one lambda a prompt (Wang et al.
    2309.16240), so there h is constant in each group, and loss and gradient are 0 whichever policy drew the answers: no
    importance ratio enters. The regularizer placed as the link has beta, divergence, reference and weighting.
    """

    links = True

    @abstractmethod
    def of_deviations(self, squared: Float[Tensor, "S"], size: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        """The loss of each answer, whose mean over a group is that of the group.

        Args: squared: (h - mean of its group)^2, differentiable; size: answers in its group.
        """

    def symbols(self) -> dict[str, str]:
        return {
            "h": "β s − R of an answer, R its reward as shaped; the objective stands at its first token, so that it is counted once",
            "s": "f'(u) − f'(1) of the link, at u = π/ref of the whole answer",
        }

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        link, batch = ctx.link, ctx.batch
        assert link is not None  # `links`: one regularizer is placed so
        _, ids = batch.group_ids.unique_consecutive(return_inverse=True)
        gap = link.beta * link.scores - advantages[batch.positions == 0]
        deviation = gap - group_mean(gap, ids)
        size = segment_sum(torch.ones_like(gap), ids, int(ids.max()) + 1)[ids]
        loss = self.of_deviations(deviation.square(), size)
        return at_first_tokens(loss, batch), {"implicit_reward/error": deviation.detach().abs()}
