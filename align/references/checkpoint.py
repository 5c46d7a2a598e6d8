from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from align.references import OwnModel, Reference, RunningReference
from align.vocabulary.exported import refuse_damaged

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Checkpoint(Reference):
    """A named checkpoint of the policy's architecture: a whole model, or a peft adapter on the model of the recipe.

    An adapter costs its own memory where the policy has LoRA of the same rank and targets, anything else that of one model. For a
    model of another architecture use `teacher`.
    """

    starts_at_policy = False

    path: str
    """A Hugging Face model folder, or a peft adapter folder (`model/adapter` of a LoRA run). A relative one starts where that of
    `model.path` does."""

    def __post_init__(self):
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def start(self, policy: Policy) -> RunningReference:
        where = "reference checkpoint: path"
        refuse_damaged(self.path, where)
        if policy.lora and policy.is_adapter(self.path):
            return _Given(policy, policy.adapter(self.path, where))
        if policy.lora:
            model = policy.initial()
            model.assign(model.whole(self.path, where))
            return OwnModel(policy, model)
        values = policy.whole(self.path, where)
        return _Given(policy, {n: values[n].to(p.dtype) for n, p in policy.trained()})

    def holds(self, lora: bool) -> str:
        return "an adapter, or a whole model where the folder holds one" if lora else "one copy of the trained parameters"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return whole * width if lora else trained * width


class _Given(RunningReference):
    def __init__(self, policy: Policy, parameters: dict[str, Tensor]):
        super().__init__(policy)
        self._parameters = parameters

    def parameters(self) -> dict[str, Tensor]:
        return self._parameters
