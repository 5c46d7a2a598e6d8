"""References: against whom a regularizer measures. Versioned, hashed, checkpointed.

Most references are parameters that stand in for the policy's own during one forward pass, so they cost the memory of the
trained parameters only, and nothing with LoRA: there the frozen reference is the model with the adapter off. A reference of
another shape brings a model of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from align.core.logprobs import Head
    from align.learner.policy import Policy
    from align.types import TokenBatch

Override = dict[str, Tensor] | None | EllipsisType
"""Values for the parameters of a model, by name, or one of the two below."""
OWN = ...
"""The parameters the model has."""
BASE = None
"""The base model, its adapter off."""


class Reference(ABC):
    """The contract. `start` sees the policy as the recipe loads it, before any checkpoint is restored.

    Tensors that `hidden` or `head` have used are replaced, never written into: a batch is scored once and compared until its last
    update.
    """

    starts_at_policy = True
    """The first batch must find it equal to the policy; the run is stopped where it does not. False: the distance is reported."""
    precomputes = False
    """Is told every ranked answer before the first step (`prepare`), and asked for no other."""
    version: int = 0
    """How often it has changed."""

    @abstractmethod
    def start(self, policy: Policy) -> None:
        """Take what is needed of the initial policy. Raises UserError where a folder does not hold what the reference needs."""

    @abstractmethod
    def parameters(self) -> Override:
        """What `model` runs with: other values for its trained parameters, OWN or BASE."""

    def model(self, policy: Policy) -> Policy:
        """Who runs: the policy, unless the reference has a model of its own."""
        return policy

    def hidden(self, policy: Policy, micro: TokenBatch) -> Tensor:
        """The reference's state that predicts each response token: [T, H]. Called once a batch."""
        return self.model(policy).hidden(micro, self.parameters())

    def head(self, policy: Policy) -> Head:
        """The layer that makes logits of `hidden`, of the moment it was taken."""
        return self.model(policy).head(self.parameters())

    def known(self, micro: TokenBatch) -> Tensor | None:
        """float32 [T], log ref of the sampled tokens where that is known without a forward pass; else None."""
        return None

    def before_batch(self, policy: Policy) -> None:
        """Told before a batch is scored."""

    def after_step(self, policy: Policy, step: int) -> None:
        """Told after each optimizer step; `step` counts them from 1."""

    def content_hash(self, policy: Policy) -> str:
        """16 hex digits of the parameters it stands for: the same after a restart, or it is another reference."""
        return self.model(policy).content_hash(self.parameters())

    def holds(self, lora: bool) -> str:
        """What it costs in memory, in words, for `explain`."""
        return "the adapter alone, or nothing where it is switched off" if lora else "one copy of the trained parameters"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        """The same in bytes, about: of a policy of `whole` values, `trained` of them, in `width` bytes each."""
        return 0 if lora else trained * width

    def refusal(self, *, on_policy: bool) -> str | None:
        """Why a penalty against it would be zero throughout, or None. `on_policy`: each batch serves one update."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers a checkpoint must hold, beside the version."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
