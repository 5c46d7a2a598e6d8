"""Algorithms whose loss is a function of the rewards of whole answers, compared within their group."""

from __future__ import annotations

from torch import Tensor

from align.algorithms import Algorithm
from align.config.docstrings import format_part
from align.config.needed_columns import GROUPS
from align.config.nodes import build_part
from align.config.parts import Setting
from align.contexts import TokenContext
from align.shapings import Shaping
from align.types import Columns


class OfAnswers(Algorithm[TokenContext, Tensor]):
    """The base: `advantages` holds the shaped reward of its answer at each token, and the loss stands at the first one."""

    needs = frozenset({"rewards", GROUPS})
    reduction = build_part("reduction", "sequence_sum", "reduction")

    @property
    def least_samples(self) -> int:
        return 2  # one answer has no other to be compared with

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

    def advantages(self, batch: Columns) -> Tensor:
        """The shaped reward of its answer at each token: a loss needs it unchanged."""
        return batch.rewards[batch.seq_ids]
