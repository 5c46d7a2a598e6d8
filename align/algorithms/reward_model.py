from dataclasses import dataclass

from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.core.links import accuracy
from align.core.ranking import pairs, plackett_luce
from align.types import ScoreContext


@dataclass(frozen=True)
class RewardModel(Algorithm):
    """A reward model from preferences: the likelihood of each ranking under Plackett-Luce (Zhu et al. 2301.11270), nats a ranking.

    Of two answers that is Bradley-Terry, -log sigmoid(r_w - r_l), as in InstructGPT. A scorer is trained, one number a whole answer;
    `reward: {name: learned, path: RUN/model}` uses it. Scores are known up to a constant for each prompt. Where rankings differ in
    length, each weighs by its number of answers.
    """

    samples = False
    ranks = True
    scores = True
    reduction = "answer"

    centre: float = 0.0
    """Weight of the mean squared score (Eisenstein et al. 2312.09244), which fixes that constant near 0."""
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()
        if self.centre < 0:
            raise ValueError(f"centre must be >= 0, not {self.centre}")

    def formula(self) -> str:
        return "log P(ranking | r)" + (f" − {self.centre:g} r²" if self.centre else "")

    def symbols(self) -> dict[str, str]:
        return {"P": "Plackett-Luce: the best is drawn by softmax of the scores r, then the best of the rest"}

    def loss(self, ctx: ScoreContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        scores, (_, ids) = ctx.scores, ctx.batch.group_ids.unique_consecutive(return_inverse=True)
        losses = plackett_luce(scores, ids)[ids] + self.centre * scores.square()
        better, worse = pairs(ids)
        return at_first_tokens(losses, ctx.batch), {
            "preference/margin": (scores[better] - scores[worse]).detach(), "preference/accuracy": accuracy(scores[better], scores[worse]),
            "score/mean": scores.detach()}
