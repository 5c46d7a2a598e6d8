from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from align.config.parts import Setting
from align.references import CHARGED, Reference, RunningReference

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class HardReset(Reference):
    """A copy of the policy, taken anew every `every` optimizer steps.

    TR-DPO's hard update (Gorbatovski et al. 2404.09656, tau = 512); ProRL's reference resets (2505.24864) on a
    schedule. Solving a KL-regularized problem exactly between resets, m of them amount to one problem with beta/m: the pull back
    weakens with every reset. With LoRA the copy is of the adapter.
    """

    changes = True

    every: int = 512

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every must be at least 1, not {self.every}")

    def start(self, policy: Policy) -> RunningReference:
        return _Copy(policy, self.every)

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return trained * width

    def refuse(self, setting: Setting) -> str | None:
        regularizer = setting.regularizer
        if regularizer is None or regularizer.reference is not self or not setting.on_policy or self.every > 1:
            return None
        if not setting.recipe.algorithm.on_policy:
            return CHARGED
        return (
            "changes nothing: each batch serves one update, after which the reference is the policy again, so every divergence is 0: "
            "raise every, or algorithm.minibatches"
        )


class _Copy(RunningReference):
    def __init__(self, policy: Policy, every: int):
        super().__init__(policy)
        self._every, self._copy = every, self._taken()

    def _taken(self) -> dict[str, Tensor]:
        # In the policy's own precision the copy is exact; more digits would cost memory and say nothing.
        return {n: p.detach().clone() for n, p in self.policy.trained()}

    def parameters(self) -> dict[str, Tensor]:
        return self._copy

    def after_step(self, step: int) -> None:
        if step % self._every == 0:
            self._copy = self._taken()
            self.version += 1

    def state_dict(self) -> dict[str, Any]:
        return self._copy

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._copy = {name: state[name] for name in self._copy}
