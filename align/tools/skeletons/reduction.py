"""A reduction: the weight of each token in the loss of an update.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: grpo, reduction: "./skeleton.py:Skeleton"}
"""

from torch import Tensor

from align.reductions import Reduction


class Skeleton(Reduction):
    """Between the sum over an answer's tokens (power 0) and their mean (power 1); the mean over answers."""

    power: float = 0.5

    def __post_init__(self):
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be from 0 to 1, not {self.power}")

    def formula(self) -> str:
        return f"1/(S n^{self.power:g})"

    def symbols(self) -> dict[str, str]:
        return {"S": "the answers of the update", "n": "the tokens of the answer"}

    def weights(self, lengths: Tensor, max_tokens: int) -> Tensor:
        """Float32 [S], above 0: the weight of each token, by answer. Args: lengths: int64 [S], tokens of every answer of the update."""
        return lengths.float() ** -self.power / len(lengths)
