from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import segment_sum
from align.types import Columns
from align.weightings import Weighting


@dataclass(frozen=True)
class Confidence(Weighting):
    """CAKLD's mixing weight (Du et al. 2402.10631, BitDistiller): gamma, how sure the reference is of the answers, or 1 - gamma.

    gamma is the mean over answers of the mean reference probability of an answer's tokens, here of each batch (the paper's is of
    its data set; its code averages the largest probability, padding included). `gamma KL(pi||ref) + (1 - gamma) KL(ref||pi)` is a
    reverse_kl with this weighting beside a forward_kl with `complement: true`, at one coefficient.
    """

    needs = frozenset({"ref_logp"})

    complement: bool = False
    """Weigh 1 - gamma."""

    def weights(self, batch: Columns, name: str) -> Float[Tensor, "T"]:
        probability = torch.exp(batch.ref_logp[name])
        gamma = (segment_sum(probability, batch.seq_ids, len(batch.lengths)) / batch.lengths).mean()
        return (1 - gamma if self.complement else gamma).to(torch.float32).expand(len(batch.seq_ids)).clone()
