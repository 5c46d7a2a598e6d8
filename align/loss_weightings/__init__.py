"""Loss weightings: how much each example counts in the algorithm's own loss. Detached, >= 0; regularizers beside it are not weighed.

The loss of a batch is the mean of the losses l of its examples: l is the number of sequences times a sequence's share of the reduced
loss. Under the reduction `sequence_sum` that is the sum over its tokens, under `sequence_mean` their mean. An answer of a ranking has the
ranking's loss.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from align.coefficients import State
from align.config.docstrings import format_part
from align.config.formulas import Formulated
from align.config.needed_columns import missing_column
from align.config.parts import Setting
from align.types import Columns

EXAMPLE_LOSS = {"l": "the loss of an example: with the reduction sequence_sum the sum over its tokens, with sequence_mean their mean"}
"""The symbol that formulas of this room share."""


class LossWeighting(Formulated, ABC):
    """The contract: `of_losses` for weights that follow from the losses of a batch, `of_batch` for weights that are there before it.

    With `of_losses` each update costs one more forward pass, without gradient: its weights are of all examples of the update, on any
    split into micro-batches. A weighting with a state defines `initial_state` and `update`; a checkpoint holds the state.
    """

    stated = ("of_losses", "of_batch")
    of_tokens = False
    """Tells the tokens of an example apart, so it has no meaning for the loss of a whole ranking. Others weigh whole examples by their
    losses, which no rollout has: the loss of a policy gradient measures nothing."""

    @property
    def reads_losses(self) -> bool:
        """Whether the losses are computed before each update."""
        return type(self).of_losses is not LossWeighting.of_losses

    @property
    def has_state(self) -> bool:
        """Whether it follows the losses of the examples from step to step."""
        return type(self).update is not LossWeighting.update

    def initial_state(self) -> State:
        """The state a run begins with, JSON values."""
        return {}

    def of_batch(self, batch: Columns, state: State) -> Float[Tensor, "T"] | None:
        """float32, >= 0, of each token of a scored batch, before its first update; None for 1."""
        return None

    def of_losses(self, losses: Float[Tensor, "S"]) -> Float[Tensor, "S"] | None:
        """float32, >= 0, of each example of one update, from the losses l of all of them; None for 1."""
        return None

    def update(self, state: State, losses: Mapping[str, float]) -> State:
        """The state after a step: by the id of each example in it, its loss l, the mean over the updates of the step."""
        return state

    def misfit(self, setting: Setting) -> str | None:
        algorithm, said = setting.recipe.algorithm, format_part(self)
        if self.of_tokens and algorithm.ranks:
            return f"{said} tells tokens apart, and {algorithm.recipe_name} has one loss for a whole ranking: use kl_dro, cvar or feasible"
        if not self.of_tokens and algorithm.samples:
            return (
                f"{said} weighs examples by their losses, and the loss of a rollout measures nothing: it belongs to sft, dpo or "
                "reward_model; beside rollouts use top_entropy"
            )
        return missing_column("loss_weighting", self, setting)
