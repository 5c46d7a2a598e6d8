"""Losses that fit the implicit reward of whole answers to their reward, up to one constant a prompt."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.config.docstrings import format_part
from align.config.needed_columns import GROUPS
from align.config.nodes import build_part
from align.config.parts import Setting
from align.core.segments import group_mean, segment_sum
from align.shapings import Shaping
from align.types import Columns, TokenContext


class ImplicitReward(Algorithm[TokenContext, Tensor]):
    """The base: `h = beta s - R` of each answer, s the score of the link, R the shaped reward; 0 spread of h in a group is the optimum.

    The optimum of `E[R] - beta D_f(pi||ref)` over whole answers has `beta f'(u) = R - lambda` with one lambda a prompt (Wang et al.
    2309.16240, theorem 1), so there h is constant in each group, and loss and gradient are 0 whichever policy drew the answers: no
    importance ratio enters. The regularizer placed as the link has beta, divergence, reference and weighting.
    """

    needs = frozenset({"rewards", GROUPS})
    links = True
    reduction = build_part("reduction", "sequence_sum", "reduction")

    @property
    def least_samples(self) -> int:
        return 2  # of one answer h has no spread

    @abstractmethod
    def of_deviations(self, squared: Float[Tensor, "S"], size: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        """The loss of each answer, whose mean over a group is that of the group.

        Args: squared: (h - mean of its group)^2, differentiable; size: answers in its group.
        """

    def refuse(self, setting: Setting) -> str | None:
        recipe = setting.recipe
        in_reward = next((name for name, r in recipe.regularizers.items() if r.placement == "reward"), None)
        if in_reward is not None:
            return (
                f"fits the reward of whole answers, and regularizers.{in_reward} is taken from the advantage of each token: give it "
                "placement: loss"
            )
        of_tokens = next((n for n, s in recipe.shapings.items() if type(s).advantages is not Shaping.advantages), None)
        if of_tokens is not None:
            return (
                f"fits the reward of whole answers, and shapings.{of_tokens} ({format_part(recipe.shapings[of_tokens])}) changes the "
                "advantages of tokens: use a shaping of rewards, or an algorithm with advantages"
            )
        return None

    def symbols(self) -> dict[str, str]:
        return {
            "h": "β s − R of an answer, R its reward as shaped; the objective stands at its first token, so that it is counted once",
            "s": "f'(u) − f'(1) of the link, at u = π/ref of the whole answer",
        }

    def advantages(self, batch: Columns) -> Tensor:
        """The shaped reward of its answer at each token: a loss needs it unchanged."""
        return batch.rewards[batch.seq_ids]

    def loss(self, ctx: TokenContext, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        link, batch = ctx.link, ctx.batch
        assert link is not None  # `links`: one regularizer is placed so
        ids = _groups(batch.group_ids)
        gap = link.beta * link.scores - advantages[batch.positions == 0]
        deviation = gap - group_mean(gap, ids)
        size = segment_sum(torch.ones_like(gap), ids, int(ids.max()) + 1)[ids]
        loss = self.of_deviations(deviation.square(), size)
        return at_first_tokens(loss, batch), {"implicit_reward/error": deviation.detach().abs()}


def _groups(group_ids: Int64[Tensor, "S"]) -> Int64[Tensor, "S"]:
    """Consecutive from 0."""
    return group_ids.unique_consecutive(return_inverse=True)[1]
