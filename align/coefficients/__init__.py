"""Coefficients: one rule for beta per file. The beta of a batch is fixed before its first update and travels with it (`TokenBatch.betas`).

A rule is pure functions of a state; `align/run/state.py` keeps the state of each rule, and a checkpoint saves it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from align.config.docstrings import format_part
from align.config.needed_columns import missing_column
from align.config.parts import Part, Setting
from align.types import Columns

State = Mapping[str, Any]
"""What a coefficient remembers: JSON values only. It is replaced, never written into."""


class Coefficient(Part, ABC):
    """The contract: pure functions of a state that the run holds. The part itself is its keys, and serves any number of runs.

    A coefficient with a memory defines `initial_state` and the `update...` that it follows. `beta/NAME` in the metrics is its beta, and
    a checkpoint holds its state.
    """

    needs = frozenset[str]()
    """What `multipliers` reads of the batch, of `types.EARLY` (see Weighting.needs)."""

    compares = False
    """`multipliers` compares the answers of a ranking, so it has a meaning for preferences alone."""

    ascends = False
    """Dual ascent on a constraint: beta grows for as long as the divergence is above its target, so it must fall as beta grows."""

    @property
    def schedule_steps(self) -> float:
        """Steps after which `beta` follows the state alone; 0 without a schedule."""
        return 0

    @property
    def listens(self) -> bool:
        """Follows the measured divergence."""
        return type(self).update is not Coefficient.update

    @property
    def listens_by_prompt(self) -> bool:
        """Follows the measured divergence of each prompt."""
        return type(self).update_prompts is not Coefficient.update_prompts

    @staticmethod
    def shorthand(node: float) -> dict:
        """`coefficient: 0.1` in a recipe."""
        return {"name": "constant", "value": node}

    def initial_state(self) -> State:
        """The state a run begins with."""
        return {}

    @abstractmethod
    def beta(self, step: int, state: State) -> float:
        """The coefficient of the batch of this step (from 0), >= 0."""

    def always_zero(self, steps: int) -> bool:
        """Whether it has no state and is 0 at the first, middle and last of so many steps: the divergence is measured, not trained."""
        state = self.initial_state()
        return not state and all(self.beta(step, state) == 0 for step in (0, steps // 2, max(steps - 1, 0)))

    def multipliers(self, batch: Columns, name: str, state: State) -> Float[Tensor, "S"] | None:
        """A factor of beta for each sequence of a scored batch, float32, >= 0; None where beta is all there is.

        `name` finds the regularizer's own entries. The divergence that `update` gets contains neither beta nor these.
        """
        return None

    def update(self, state: State, divergence: float, rollouts: int) -> State:
        """The state after a step: the mean over its rollouts of the divergence summed over a response, in nats, and their number."""
        return state

    def update_prompts(self, state: State, divergences: Mapping[str, float]) -> State:
        """The same where there are multipliers: for each prompt of the batch the mean over its rollouts, in nats a response."""
        return state

    def update_batch(self, state: State, batch: Columns, name: str) -> State:
        """The state after a step on this batch, as `multipliers` got it."""
        return state

    def misfit(self, setting: Setting) -> str | None:
        return self._unlinked(setting) or missing_column("coefficient", self, setting)

    def _unlinked(self, setting: Setting) -> str | None:
        """What a preference link asks of its beta, and what only a link offers."""
        of = setting.regularizer
        if of is None or of.coefficient is not self:
            return None
        if of.placement != "link":
            return f"coefficient {format_part(self)} compares ranked answers: it goes with placement: link" if self.compares else None
        if self.compares and not setting.recipe.algorithm.ranks:
            whose = setting.recipe.algorithm.recipe_name
            return f"coefficient {format_part(self)} compares ranked answers, and {whose} learns from single ones"
        if self.ascends:
            return (
                f"coefficient {format_part(self)} raises beta until the divergence has fallen, and a link's beta scales the implicit "
                "reward: the divergence need not fall as it grows, and beta then grows without end. Use a constant or a schedule"
            )
        if self.listens and not of.full_vocabulary:
            return (
                f"coefficient {format_part(self)} follows the measured divergence, and a ranking's answers are not drawn from the policy: "
                "with estimator: exact it follows that at their states"
            )
        last = max(setting.recipe.steps - 1, 0)
        if any(self.beta(step, self.initial_state()) <= 0 for step in (0, setting.recipe.steps // 2, last)):
            return "is 0 at some step: a link without beta has no implicit reward"
        return None
