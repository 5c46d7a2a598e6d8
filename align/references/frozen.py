from __future__ import annotations

from typing import TYPE_CHECKING

from align.references import BASE, Override, Reference

if TYPE_CHECKING:
    from align.learner.policy import Policy


class Frozen(Reference):
    """The initial policy. With LoRA it is the model with the adapter off and costs no memory.

    It is taken from the model the recipe loads, also on resume: a resumed run keeps its anchor, so a checkpoint holds none of it.
    """

    def start(self, policy: Policy) -> None:
        self._parameters = BASE if policy.lora else {n: p.detach().clone() for n, p in policy.trained()}

    def parameters(self) -> Override:
        return self._parameters
