from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.preferences import Pairs, Preference


@dataclass(frozen=True)
class Sigmoid(Preference):
    """-log sigmoid(beta D), D = s_w - s_l (DPO, Rafailov et al. 2305.18290): Bradley-Terry on the rewards beta s."""

    def formula(self) -> str:
        return "log σ(β (s_w − s_l))"

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        return -logsigmoid(pairs.beta * pairs.margin)
