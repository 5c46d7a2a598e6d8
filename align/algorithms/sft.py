from dataclasses import dataclass

from torch import Tensor

from align.algorithms import Algorithm
from align.types import TokenContext


@dataclass(frozen=True)
class Sft(Algorithm):
    """Supervised fine-tuning: the negative log-likelihood of the demonstrations' answers, in nats a token."""

    samples = False

    reduction: str = "token"
    """`token`, `sequence` or `constant`: see core/reductions.py."""

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return "log π"

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        return -ctx.logp, {}
