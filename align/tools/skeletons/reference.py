"""A reference: the distribution that a regularizer compares the policy with.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    regularizers: {kl: {reference: "./skeleton.py:Skeleton", coefficient: 0.1}}
"""

from __future__ import annotations

from typing import Any

from align.learner.parameters import Override
from align.learner.policy import Policy
from align.references import Reference, RunningReference


class Skeleton(Reference):
    """A copy of the policy, taken again every few optimizer steps."""

    changes = True

    every: int = 20

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every must be at least 1, not {self.every}")

    def start(self, policy: Policy) -> RunningReference:
        """Take what is needed of the initial policy; called once."""
        return RunningSkeleton(policy, self.every)


class RunningSkeleton(RunningReference):
    """The parameters of one run. They are replaced and never written into: a batch is compared with one version until its last update."""

    def __init__(self, policy: Policy, every: int):
        super().__init__(policy)
        self._every, self._copy = every, self._taken()

    def _taken(self) -> dict[str, Any]:
        return {name: p.detach().clone() for name, p in self.policy.trained()}

    def parameters(self) -> Override:
        """The values that stand in for the trained parameters of the policy."""
        return self._copy

    def after_step(self, step: int) -> None:
        """Called after each optimizer step, counted from 1."""
        if step % self._every == 0:
            self._copy = self._taken()
            self.version += 1

    def state_dict(self) -> dict[str, Any]:
        """The tensors that a checkpoint must hold."""
        return self._copy

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._copy = {name: state[name] for name in self._copy}
