from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.preferences import Pairs, Preference, check_smoothing


@dataclass(frozen=True)
class Cdpo(Preference):
    """-(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D) (Mitchell's conservative DPO): stationary at beta D = log((1 - e)/e)."""

    label_smoothing: float
    """e: the probability that a label is the wrong way round."""

    def __post_init__(self):
        check_smoothing(self.label_smoothing)

    def formula(self) -> str:
        return f"(1 − {self.label_smoothing:g}) log σ(m) + {self.label_smoothing:g} log σ(−m)"

    def symbols(self) -> dict[str, str]:
        return {"m": "β (s_w − s_l)"}

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        margin = pairs.beta * pairs.margin
        return -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
