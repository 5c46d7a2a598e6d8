import torch
from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting


class Uniform(Weighting):
    """Every token feels the regularizer alike."""

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        return torch.ones(len(batch.seq_ids))
