from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.references import OWN, Override, Reference

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass
class Checkpoint(Reference):
    """A named checkpoint of the policy's architecture: a whole model, or a peft adapter on the model of the recipe.

    An adapter costs its own memory where the policy has LoRA of the same rank and targets, anything else that of one model. For a
    model of another architecture use `teacher`.
    """

    starts_at_policy = False

    path: str
    """A Hugging Face model folder, or a peft adapter folder (`model/adapter` of a LoRA run). A relative one starts at the working
    directory, as `model.path` does."""

    def __post_init__(self):
        self.path = str(Path(self.path).expanduser().absolute())

    def start(self, policy: Policy) -> None:
        where = "reference checkpoint: path"
        self._model, self._parameters = policy, OWN
        if policy.lora and policy.is_adapter(self.path):
            self._parameters = policy.adapter(self.path, where)
        elif policy.lora:
            self._model = policy.initial()
            self._model.assign(self._model.whole(self.path, where))
        else:
            values = policy.whole(self.path, where)
            self._parameters = {n: values[n].to(p.dtype) for n, p in policy.trained()}

    def model(self, policy: Policy) -> Policy:
        return self._model

    def holds(self, lora: bool) -> str:
        return "an adapter, or a whole model where the folder holds one" if lora else "one copy of the trained parameters"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return whole * width if lora else trained * width

    def parameters(self) -> Override:
        return self._parameters
