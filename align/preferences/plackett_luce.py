from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.core.segments import padded, segment_sum
from align.preferences import Pairs, Preference, Rankings


@dataclass(frozen=True)
class PlackettLuce(Preference):
    """-log of the probability of each order: the best is drawn by softmax of beta s, then the best of the rest (Zhu et al. 2301.11270).

    One loss of a whole ranking, in nats: sum_k [logsumexp_{j >= k} beta s_j - beta s_k]. Two answers are Bradley-Terry, which is
    `sigmoid`; of more, `sigmoid` is the mean over pairs (InstructGPT 2203.02155).
    """

    def formula(self) -> str:
        return "log P(ranking | β s)"

    def symbols(self) -> dict[str, str]:
        return {"P": "Plackett-Luce: the best is drawn by softmax of the scores β s, then the best of the rest"}

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        return -logsigmoid(pairs.beta * pairs.margin)

    def of_rankings(self, rankings: Rankings) -> Float[Tensor, "G"]:
        scores, ids = rankings.beta * rankings.scores, rankings.ids
        groups = int(ids.max()) + 1
        from_worst = torch.bincount(ids, minlength=groups).cumsum(0)[ids] - 1 - torch.arange(len(ids), device=ids.device)
        rows = padded(scores, ids, from_worst)
        # A row for each answer, of itself and what is worse. Not `logcumsumexp`: its gradient is off by roundings of the scores' size.
        placed = torch.arange(rows.shape[1], device=ids.device) > from_worst[:, None]
        rest = rows[ids].masked_fill(placed, -torch.inf).logsumexp(1)
        return segment_sum(rest - scores, ids, groups)
