from dataclasses import dataclass

import torch
from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens, known
from align.core import preference
from align.core.links import accuracy
from align.core.ranking import pairs
from align.core.segments import segment_sum
from align.describe import summary
from align.types import TokenContext


@dataclass(frozen=True)
class Dpo(Algorithm):
    """Direct preference optimisation (Rafailov et al. 2305.18290), of any divergence (f-DPO, Wang et al. 2309.16240): no reward, no engine.

    The regularizer is the link: placed so, its divergence gives the implicit reward beta (f'(u) - f'(1)) of a whole answer, its
    coefficient is beta, and its reference, weighting and schedule are what they are elsewhere. Of a ranking of more than two answers the
    loss is the mean over all its pairs.
    """

    samples = False
    ranks = True
    links = True
    reduction = "answer"

    preference: str = "sigmoid"
    """A function of core/preference.py."""
    label_smoothing: float = 0.0
    """The probability that a label is the wrong way round; for `cdpo` and `robust`."""
    per_token: bool = False
    """Divide each answer's score by its length, as TRL's ipo does; beta then weighs the mean token, not the answer."""
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        known("preference", self.preference, preference)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 1/2), not {self.label_smoothing}: at 1/2 the labels say nothing")
        if (self.label_smoothing > 0) != (self.preference in preference.SMOOTHED):
            raise ValueError(f"label_smoothing is what {' and '.join(sorted(preference.SMOOTHED))} need, and no other preference reads")

    def formula(self) -> str:
        return f"−{self.preference}(s_w, s_l)"

    def symbols(self) -> dict[str, str]:
        over = " over its length" if self.per_token else ""
        return {self.preference: summary(getattr(preference, self.preference)),
                "s": f"f'(u) − f'(1) at u = π/π_ref of the whole answer{over}, of the chosen (w) and the rejected (l)"}

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        link, (_, ids) = ctx.link, ctx.batch.group_ids.unique_consecutive(return_inverse=True)
        better, worse = pairs(ids)
        scores = link.scores / ctx.batch.lengths if self.per_token else link.scores
        beta, groups = link.beta[better], ids[better]
        losses = getattr(preference, self.preference)(scores[better], scores[worse], beta, self.label_smoothing)
        of_group = segment_sum(losses, groups, int(ids.max()) + 1) / torch.bincount(groups)
        margin = beta * (scores[better] - scores[worse]).detach()
        return at_first_tokens(of_group[ids], ctx.batch), {
            "preference/margin": margin, "preference/accuracy": accuracy(scores[better], scores[worse]),
            "preference/chosen": link.log_ratio[better], "preference/rejected": link.log_ratio[worse]}
