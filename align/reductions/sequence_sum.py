from dataclasses import dataclass

from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class SequenceSum(Reduction):
    """Sum over the tokens of each answer, mean over answers (verl's seq-mean-token-sum): also for what stands at the first token alone."""

    def formula(self) -> str:
        return "1/S"

    def symbols(self) -> dict[str, str]:
        return {"S": "the answers of the update"}

    def weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        return (lengths * 0 + 1).float() / len(lengths)
