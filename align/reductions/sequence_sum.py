from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class SequenceSum(Reduction):
    """Sum over the tokens of each answer, mean over answers (verl's seq-mean-token-sum): also for what stands at the first token alone."""

    def formula(self) -> str:
        return "1/S"

    def symbols(self) -> dict[str, str]:
        return {"S": "the answers of the update"}

    def weights(self, lengths: Int64[Tensor, "S"], max_tokens: int) -> Float[Tensor, "S"]:
        return (lengths * 0 + 1).float() / len(lengths)
