from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from align.critics import Critic, RunningCritic
from align.errors import UserError
from align.vocabulary.exported import refuse_damaged

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.learner.reward_model import RewardModel
    from align.types import TokenBatch


@dataclass(frozen=True)
class Separate(Critic):
    """A model of its own, trained whole in the policy's precision, that starts as a learned reward or as the initial policy.

    InstructGPT's starts as the reward model (Ouyang et al. 2203.02155). On a language model it begins with a small random head. It
    costs the memory of a second trained model.
    """

    lr: float | None = None
    """None: the optimizer's."""
    path: str | None = None
    """A scorer's or a causal language model's folder, of the policy's vocabulary; None: the initial policy. A relative one starts where
    that of `model.path` does."""

    def __post_init__(self):
        self.check()
        if self.path is not None:
            # A worker's working directory is another one.
            object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def start(self, policy: Policy) -> RunningCritic:
        from align.config.schema import Lora  # noqa: PLC0415
        from align.learner.reward_model import RewardModel  # noqa: PLC0415  (the learner's libraries take seconds to import)

        where = "critic separate: path"
        if self.path is not None:
            refuse_damaged(self.path, where)
        scorer = RewardModel(self.path or policy.model_dir, replace(policy.options, lora=Lora()), where)
        other = scorer.tokenizer.get_vocab()
        differing = sorted(t for t, i in policy.tokenizer.get_vocab().items() if other.get(t) != i)
        if differing:
            raise UserError(
                f"{where}: {self.path} has another vocabulary: {len(differing)} of the policy's tokens differ, the first "
                f"{differing[0]!r}. It reads the policy's tokens as they are: give a model of the same tokenizer"
            )
        return _Model(scorer)

    def values_trained(self, whole: int) -> int:
        return whole


class _Model(RunningCritic):
    def __init__(self, scorer: RewardModel):
        self._scorer = scorer

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((f"critic.{n}", p) for n, p in self._scorer.trained())

    def values(self, micro: TokenBatch, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T"]:
        return self._scorer.values(micro)
