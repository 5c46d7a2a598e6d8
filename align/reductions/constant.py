from dataclasses import dataclass

from torch import Tensor

from align.reductions import Reduction


@dataclass(frozen=True)
class Constant(Reduction):
    """Sum over tokens divided by S * max_tokens (Dr. GRPO 2503.20783): no length enters."""

    def formula(self) -> str:
        return "1/(S n_max)"

    def symbols(self) -> dict[str, str]:
        return {"S": "the answers of the update", "n_max": "sampling.max_tokens"}

    def weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        return (lengths * 0 + 1).float() / (len(lengths) * max_tokens)
