from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.learner.parameters import BASE, Override
from align.references import Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Frozen(Reference):
    """The initial policy. With LoRA it is the model with the adapter off and costs no memory.

    It is taken from the model the recipe loads, also on resume: a resumed run keeps its anchor, so a checkpoint holds none of it.
    """

    def start(self, policy: Policy) -> RunningReference:
        return _Initial(policy)


class _Initial(RunningReference):
    is_initial = True

    def __init__(self, policy: Policy):
        super().__init__(policy)
        self._parameters = BASE if policy.lora else {n: p.detach().clone() for n, p in policy.trained()}

    def parameters(self) -> Override:
        return self._parameters
