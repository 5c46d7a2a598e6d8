from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.algorithms import Algorithm, trained_in_loss
from align.config.nodes import part
from align.config.parts import Setting
from align.contexts import TokenContext


@dataclass(frozen=True)
class Distill(Algorithm[TokenContext, None]):
    """On-policy distillation: the policy answers, no reward judges, and the regularizers are the whole objective (GKD, 2306.13649).

    Against `reference: {name: teacher, path: FOLDER}` an exact generalised JSD with `credit: local` is GKD at lambda = 1 (Agarwal et al.
    2306.13649), which takes the answers as given; an exact reverse KL with `credit: summed` is the single-step decomposition of MiniLLM
    (Gu et al. 2306.08543), the gradient of KL(pi||teacher) of whole answers; `skew_kl` and `skew_reverse_kl` are DistiLLM's (Ko et al.
    2402.03898). The answers are the policy's alone: none is drawn from a mixture with the teacher, from a buffer, or from the data.
    """

    distils = True

    reduction: Any = part("reduction", "token")
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    def refuse(self, setting: Setting) -> str | None:
        if not trained_in_loss(setting.recipe):
            return (
                "has no loss of its own, so it needs a regularizer with placement: loss and a coefficient that is not always 0, for "
                "example regularizers: {kd: {estimator: exact, reference: {name: teacher, path: FOLDER}, coefficient: 1.0}}"
            )
        return None

    def formula(self) -> str:
        return "0"

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        return 0.0 * ctx.logp, {}  # with a graph, for a step at which every coefficient is 0
