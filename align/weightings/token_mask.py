from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class TokenMask(Weighting):
    """Only some tokens of an answer feel it, or all but these: the first, the last, or given words of the vocabulary.

    A token is named by any of the keys. The end token is named by its id: an answer that was cut has none, so `last: 1` is not it.
    Roles need no mask: only trained tokens count, of all trained segments of an episode.
    """

    first: int = 0
    """The first tokens of each answer, this many."""
    last: int = 0
    """The last tokens of each answer, this many."""
    token_ids: tuple[int, ...] = ()
    """These words of the vocabulary, wherever they stand."""
    keep: str = "named"
    """`named`: they alone weigh 1. `others`: they weigh 0, and all others 1."""

    def __post_init__(self):
        if self.keep not in ("named", "others"):
            raise ValueError(f"keep must be named or others, not {self.keep!r}")
        if min(self.first, self.last, *self.token_ids, 0) < 0:
            raise ValueError("first, last and token_ids must be >= 0")
        if not (self.first or self.last or self.token_ids):
            raise ValueError("names no token: give first, last or token_ids")

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        left = batch.lengths[batch.seq_ids] - batch.positions
        ids = torch.tensor(self.token_ids, dtype=torch.int64)
        named = (batch.positions < self.first) | (left <= self.last) | torch.isin(batch.tokens, ids)
        return (named if self.keep == "named" else ~named).to(torch.float32)
