from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.preferences import Pairs, Preference, check_smoothing


@dataclass(frozen=True)
class Robust(Preference):
    """(-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D))/(1 - 2e) (Chowdhury et al. 2403.00409).

    Its mean over labels flipped with probability e is the DPO loss of the true labels; unbounded below.
    """

    label_smoothing: float
    """e: the probability that a label is the wrong way round."""

    def __post_init__(self):
        check_smoothing(self.label_smoothing)

    def formula(self) -> str:
        return f"((1 − {self.label_smoothing:g}) log σ(m) − {self.label_smoothing:g} log σ(−m))/(1 − {2 * self.label_smoothing:g})"

    def symbols(self) -> dict[str, str]:
        return {"m": "β (s_w − s_l)"}

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        margin = pairs.beta * pairs.margin
        clean, flipped = -logsigmoid(margin), -logsigmoid(-margin)
        return ((1 - self.label_smoothing) * clean - self.label_smoothing * flipped) / (1 - 2 * self.label_smoothing)
