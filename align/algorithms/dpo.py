from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.config.formulas import formula, symbols
from align.config.nodes import build_part, part
from align.contexts import TokenContext
from align.core.links import accuracy
from align.core.segments import segment_sum
from align.preferences import Rankings


@dataclass(frozen=True)
class Dpo(Algorithm[TokenContext, None]):
    """Direct preference optimisation (Rafailov et al. 2305.18290), of any divergence (f-DPO, Wang et al. 2309.16240).

    It learns from rankings: no rollouts and no reward, and an engine only evaluates. The regularizer is the link: placed so, its
    divergence gives the implicit reward beta (f'(u) - f'(1)) of a whole answer, its coefficient is beta, and its reference, weighting
    and schedule are what they are elsewhere. Of a ranking of more than two answers the loss is the mean over all its pairs, unless the
    preference is one of whole rankings.
    """

    samples = False
    ranks = True
    links = True
    reduction = build_part("reduction", "sequence_sum", "reduction")

    preference: Any = part("preference", "sigmoid")
    per_token: bool = False
    """Divide each answer's score by its length, as TRL's ipo does; beta then weighs the mean token, not the answer."""
    loss_weighting: Any = part("loss_weighting", optional=True)
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def formula(self) -> str:
        return formula(self.preference)

    def symbols(self) -> dict[str, str]:
        over = " over its length" if self.per_token else ""
        return symbols(self.preference) | {
            "s": f"f'(u) − f'(1) at u = π/ref of the whole answer{over}, of the chosen (w) and the rejected (l)"
        }

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        link, batch = ctx.link, ctx.batch
        assert link is not None  # `links`: one regularizer is placed so
        groups, ids = batch.group_ids.unique_consecutive(return_inverse=True)
        rankings = Rankings(
            scores=link.scores / batch.lengths if self.per_token else link.scores,
            beta=link.beta,
            lengths=batch.lengths,
            ids=ids,
            logp=segment_sum(ctx.logp, batch.seq_ids, len(batch.lengths)),
            log_ratio=link.log_ratio,
        )
        pairs, _ = rankings.pairs()
        assert pairs.better_log_ratio is not None and pairs.worse_log_ratio is not None  # those of the link
        return at_first_tokens(self.preference.of_answers(rankings, len(groups)), batch), {
            "preference/margin": pairs.beta * pairs.margin.detach(),
            "preference/accuracy": accuracy(pairs.better, pairs.worse),
            "preference/chosen": pairs.better_log_ratio,
            "preference/rejected": pairs.worse_log_ratio,
        }
