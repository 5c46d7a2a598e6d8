from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.config.formulas import formula, symbols
from align.config.nodes import build_part, part
from align.contexts import RewardModelContext
from align.core.links import accuracy
from align.preferences import Rankings


@dataclass(frozen=True)
class RewardModel(Algorithm[RewardModelContext, None]):
    """A reward model from preferences: by default the likelihood of each ranking under Plackett-Luce, nats a ranking.

    Of two answers that is Bradley-Terry, -log sigmoid(r_w - r_l), as in InstructGPT. A scorer is trained, one number a whole answer;
    `reward: {name: learned, path: RUN/model}` uses it. Scores are known up to a constant for each prompt. Where rankings differ in
    length, each weighs by its number of answers.
    """

    samples = False
    ranks = True
    trains_reward_model = True
    reduction = build_part("reduction", "sequence_sum", "reduction")

    preference: Any = part("preference", "plackett_luce")
    centre: float = 0.0
    """Weight of the mean squared score (Eisenstein et al. 2312.09244), which fixes that constant near 0."""
    loss_weighting: Any = part("loss_weighting", optional=True)
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if self.centre < 0:
            raise ValueError(f"centre must be >= 0, not {self.centre}")

    def formula(self) -> str:
        return formula(self.preference) + (f" − {self.centre:g} s²" if self.centre else "")

    def symbols(self) -> dict[str, str]:
        centred = {"s²": "its mean over the answers of the ranking"} if self.centre else {}
        return symbols(self.preference) | {"s": "the score of an answer", "β": "1"} | centred

    def loss(self, ctx: RewardModelContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        scores, (groups, ids) = ctx.scores, ctx.batch.group_ids.unique_consecutive(return_inverse=True)
        rankings = Rankings(scores=scores, beta=torch.ones_like(scores), lengths=ctx.batch.lengths, ids=ids)
        losses = self.preference.of_answers(rankings, len(groups)) + self.centre * scores.square()
        pairs, _ = rankings.pairs()
        return at_first_tokens(losses, ctx.batch), {
            "preference/margin": pairs.margin.detach(),
            "preference/accuracy": accuracy(pairs.better, pairs.worse),
            "score/mean": scores.detach(),
        }
