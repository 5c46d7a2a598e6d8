"""Shapings: what else touches rewards and advantages. Pure functions of the whole batch, applied in the recipe's order.

`batch.rewards` stays what the reward said, for every shaping, weighting and log; `rewards` and `advantages` are what the
shapings before made of it. The reward-placed regularizers are not shaped: a weight on the policy term is no weight on a penalty. They are
subtracted later, in the learner; with a critic from the token rewards, before the advantages.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from align.config.needed_columns import missing_column
from align.config.parts import Part, Setting
from align.divergences import Divergence
from align.types import Columns, TokenBatch


class Shaping(Part):
    """The contract. A part overrides what it needs; whatever it returns is detached."""

    needs = frozenset[str]()
    """What it reads of the batch, of `types.EARLY` (see Weighting.needs)."""
    context_divergence: Divergence | None = None
    """Between pi_old after the prompt and pi_old after the other one; with `other_context`."""

    def rewards(self, batch: Columns, rewards: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        """float32: the rewards that advantages are estimated from."""
        return rewards

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        """float32: the advantages the policy term is weighed by. `name` finds its own entry in `batch.contexts`."""
        return advantages

    def other_context(self, batch: Columns) -> TokenBatch | None:
        """The same answers after other prompts, or None.

        The learner then fills `batch.contexts[name]`, [T], with `context_divergence` at each state: one forward pass more, without
        gradient, over the full vocabulary.
        """
        return None

    def metrics(self, batch: Columns, name: str) -> dict[str, float]:
        """Numbers of its own, logged as `shaping/NAME/KEY`, beside what it changed."""
        return {}

    def misfit(self, setting: Setting) -> str | None:
        algorithm = setting.recipe.algorithm
        if algorithm.samples and algorithm.has_advantages:
            return missing_column("shaping", self, setting)
        why = "uses no advantages" if algorithm.samples else f"learns from {algorithm.learns_from}"
        return missing_column("shaping", self, setting) or f"changes nothing: {algorithm.recipe_name} {why}; delete the key"
