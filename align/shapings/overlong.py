from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.parts import Setting
from align.shapings import Shaping
from align.types import Columns


@dataclass(frozen=True)
class Overlong(Shaping):
    """DAPO's soft overlong punishment (Yu et al. 2503.14476, equation 13), added to the reward before advantages are estimated.

    0 up to `limit - buffer` tokens, then linearly down to `-factor` at `limit`, and `-factor` beyond.
    """

    limit: int
    """Tokens; in the paper the most an answer can have, 20480."""
    buffer: int
    """Tokens before the limit; in the paper 4096."""
    factor: float = 1.0

    def __post_init__(self):
        if not 0 < self.buffer <= self.limit or self.factor <= 0:
            raise ValueError("buffer must lie in (0, limit] and factor must be positive")

    def rewards(self, batch: Columns, rewards: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        excess = (batch.lengths - (self.limit - self.buffer)).to(rewards.dtype)
        return rewards - self.factor * torch.clamp(excess / self.buffer, 0, 1)

    def refuse(self, setting: Setting) -> str | None:
        recipe = setting.recipe
        most = "sampling.max_tokens" if recipe.environment is None else "the turns'"
        if (max_tokens := recipe.trained_tokens) <= self.limit - self.buffer:
            return (
                f"changes nothing: no answer has more than {most} {max_tokens}, and the punishment starts above "
                f"limit - buffer = {self.limit - self.buffer}"
            )
        return None
