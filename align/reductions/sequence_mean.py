from dataclasses import dataclass

from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class SequenceMean(Reduction):
    """Mean over answers of each one's token mean (GRPO 2402.03300): tokens of short answers weigh more."""

    def formula(self) -> str:
        return "1/(S n)"

    def symbols(self) -> dict[str, str]:
        return {"n": "the tokens of the answer", "S": "the answers of the update"}

    def weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        return 1.0 / (len(lengths) * lengths.float())
