from dataclasses import dataclass

from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class Token(Reduction):
    """Mean over all response tokens of an update (DAPO 2503.14476)."""

    def formula(self) -> str:
        return "1/Σ n"

    def symbols(self) -> dict[str, str]:
        return {"n": "the tokens of an answer"}

    def weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        return (1.0 / lengths.sum()).expand(len(lengths)).float()
