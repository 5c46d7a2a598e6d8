from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class Constant(Reduction):
    """Sum over tokens divided by S * max_tokens (Dr. GRPO 2503.20783): no length enters."""

    def formula(self) -> str:
        return "1/(S n_max)"

    def symbols(self) -> dict[str, str]:
        return {"S": "the answers of the update", "n_max": "sampling.max_tokens"}

    def weights(self, lengths: Int64[Tensor, "S"], max_tokens: int) -> Float[Tensor, "S"]:
        return (lengths * 0 + 1).float() / (len(lengths) * max_tokens)
