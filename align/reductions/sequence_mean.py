from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class SequenceMean(Reduction):
    """Mean over answers of each one's token mean (GRPO 2402.03300): tokens of short answers weigh more."""

    def formula(self) -> str:
        return "1/(S n)"

    def symbols(self) -> dict[str, str]:
        return {"n": "the tokens of the answer", "S": "the answers of the update"}

    def weights(self, lengths: Int64[Tensor, "S"], max_tokens: int) -> Float[Tensor, "S"]:
        return 1.0 / (len(lengths) * lengths.float())
