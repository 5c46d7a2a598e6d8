from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import UserError
from align.references import OwnModel, Reference, RunningReference
from align.vocabulary.exported import refuse_damaged

if TYPE_CHECKING:
    from align.learner.policy import Policy


@dataclass(frozen=True)
class Teacher(Reference):
    """Another model, of any architecture, over the same vocabulary: distillation as regularization (KDRL, Xu et al. 2506.02208).

    Held whole beside the policy, in its precision. Tokens must mean the same to both: the tokenizers are compared at the start. Its
    head has the rows of the policy's tokens alone (models of one family pad the vocabulary differently).
    """

    starts_at_policy = False

    path: str
    """A Hugging Face model folder with its tokenizer. A relative one starts where that of `model.path` does."""

    def __post_init__(self):
        # A worker's working directory is another one.
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def start(self, policy: Policy) -> RunningReference:
        refuse_damaged(self.path, "reference teacher: path")
        model = policy.another(self.path, "reference teacher: path")
        rows, drawn = policy.head().weight.shape[0], set(policy.spelled.ids.tolist())
        # Of the tokens the policy can draw: the other tokenizer may have more.
        own, other = ({t: i for t, i in p.tokenizer.get_vocab().items() if i in drawn} for p in (policy, model))
        differing = sorted(t for t in own.keys() | other.keys() if own.get(t) != other.get(t))
        if differing:
            raise UserError(
                f"reference teacher: {self.path} has another vocabulary than the policy: {len(differing)} tokens differ, the "
                f"first {differing[0]!r} (id {own.get(differing[0])} here, {other.get(differing[0])} there). Log-probs of one "
                "token can only be compared over one vocabulary: use a teacher of the same tokenizer"
            )
        if model.head().weight.shape[0] < rows:
            raise UserError(
                f"reference teacher: the head of {self.path} has {model.head().weight.shape[0]} rows, the policy's has "
                f"{rows}: it gives no probability to the others. Use a teacher with as many"
            )
        model.spelled = policy.spelled
        return OwnModel(policy, model)

    def holds(self, lora: bool) -> str:
        return "a whole model of its own"

    def bytes_held(self, trained: int, whole: int, width: int, lora: bool) -> int:
        return whole * width  # of a teacher as large as the policy
