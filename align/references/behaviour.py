from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.config.parts import Setting
from align.core.logprobs import Head
from align.learner.parameters import OWN, Override
from align.references import CHARGED, Reference, RunningReference
from align.references._policy_head import taken

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Behaviour(Reference):
    """The policy as it was when the batch began: KL(pi||pi_old), mirror descent's proximal term.

    A penalty lambda against it sets the speed, one against a fixed reference the target: `pi_{k+1} prop pi_k^b ref^{1-b}
    exp(R/(lambda + tau))`, b = lambda/(lambda + tau), tends to `ref exp(R/tau)` for every lambda (Vieillard et al. 2003.14089;
    RPG 2505.17508 anchors here too). Nothing is copied but a trained head: what a batch is compared with is scored before its
    first update.
    """

    changes = True

    def start(self, policy: Policy) -> RunningReference:
        return _BatchBegin(policy)

    def holds(self, lora: bool) -> str:
        return "nothing" if lora else "a copy of the head"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return 0

    def refuse(self, setting: Setting) -> str | None:
        regularizer = setting.regularizer
        if regularizer is None or regularizer.reference is not self or not setting.on_policy:
            return None
        if not setting.recipe.algorithm.on_policy:
            return CHARGED
        return (
            "changes nothing: each batch serves one update, which starts at the reference, so every divergence and its gradient are 0: "
            "raise algorithm.minibatches or algorithm.epochs, or use hard_reset"
        )


class _BatchBegin(RunningReference):
    def __init__(self, policy: Policy):
        super().__init__(policy)
        self._head = taken(self.policy)

    def before_batch(self) -> None:
        self._head = taken(self.policy)
        self.version += 1

    def parameters(self) -> Override:
        return OWN

    def head(self) -> Head:
        return self._head

    def content_hash(self) -> str:
        return self.compute_hash()  # the policy moves between two versions
