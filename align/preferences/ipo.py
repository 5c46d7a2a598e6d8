from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.preferences import Pairs, Preference


@dataclass(frozen=True)
class Ipo(Preference):
    """(D - 1/(2 beta))^2, D = s_w - s_l, beta > 0 (IPO, Azar et al. 2310.12036, equation 17).

    Of whole-answer scores, as the paper writes it; TRL divides each score by the answer's length first (`per_token` of `dpo`).
    """

    def formula(self) -> str:
        return "−(s_w − s_l − 1/(2β))²"

    def losses(self, pairs: Pairs) -> Float[Tensor, "P"]:
        return (pairs.margin - 0.5 / pairs.beta).square()
