from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class Token(Reduction):
    """Mean over all response tokens of an update (DAPO 2503.14476)."""

    def formula(self) -> str:
        return "1/Σ n"

    def symbols(self) -> dict[str, str]:
        return {"n": "the tokens of an answer"}

    def weights(self, lengths: Int64[Tensor, "S"], max_tokens: int) -> Float[Tensor, "S"]:
        return (1.0 / lengths.sum()).expand(len(lengths)).float()
