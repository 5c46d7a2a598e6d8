import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.config.parts import Setting
from align.config.ranges import Seed
from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class Sampo(Weighting):
    """SamPO's down-sampling (Lu et al. 2406.10957): every answer of a group is felt at as many tokens as its shortest has.

    They are drawn uniformly without replacement and weigh 1, all others 0; the shortest answer keeps all. One set serves policy and
    reference (the authors' code draws two, and its log-ratio is none). The draw follows from `seed` and the batch's tokens, so a
    resumed run repeats it.
    """

    seed: Seed = 0

    def refuse(self, setting: Setting) -> str | None:
        if setting.recipe.algorithm.labels:
            return "compares the lengths of a prompt's answers, and labelled answers are single: use uniform"
        return None

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        keys = torch.rand(len(batch.seq_ids), dtype=torch.float64, generator=torch.Generator().manual_seed(self._draw(batch)))
        by_key = torch.argsort(keys)
        shuffled = by_key[torch.argsort(batch.seq_ids[by_key], stable=True)]  # packed as before, each sequence in random order
        rank = torch.empty_like(shuffled).index_copy(0, shuffled, batch.positions)
        groups = int(batch.group_ids.max()) + 1
        shortest = torch.zeros(groups, dtype=torch.int64).scatter_reduce(0, batch.group_ids, batch.lengths, "amin", include_self=False)
        return (rank < shortest[batch.group_ids][batch.seq_ids]).to(torch.float32)

    def _draw(self, batch: Columns) -> int:
        content = hashlib.sha256(str(self.seed).encode())
        for tensor in (batch.lengths, batch.tokens):
            content.update(tensor.numpy().tobytes())
        return int.from_bytes(content.digest()[:7])
