from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.divergences import StateFunctional


@dataclass(frozen=True)
class Pld(StateFunctional):
    """Plackett-Luce distillation from a teacher, the reference: the weighted likelihood of its ranking of the tokens (2506.12542).

    `-sum_k w_k [s_k - log sum_{l >= k} e^{s_l}]` over the teacher's k most likely tokens, most likely first, s the policy's logits and w
    the softmax of the teacher's over a temperature. Bassam et al. put the label first; here there is none, as the answers are not gold.
    It is no divergence: its value is not 0 where the two agree. Only the policy's odds among these tokens enter.
    """

    zero_at_reference = False

    temperature: float = 1.0
    """Of the teacher's weights; the paper has 4 for images."""
    k: int = 64
    """Tokens that are ranked."""

    def __post_init__(self):
        if self.temperature <= 0 or self.k < 2:
            raise ValueError("temperature must be positive, and k at least 2")

    def of_state(self, logp: Float[Tensor, "*states V"], ref_logp: Float[Tensor, "*states V"]) -> Float[Tensor, "*states"]:
        teacher, ranked = ref_logp.topk(min(self.k, ref_logp.shape[-1]), dim=-1)
        # A token that the teacher rules out has weight 0, and -inf - -inf would be NaN.
        scores = logp.gather(-1, ranked).masked_fill(torch.isneginf(teacher), torch.finfo(logp.dtype).min / 2)
        following = scores.flip(-1).logcumsumexp(-1).flip(-1)
        return -(torch.softmax(teacher / self.temperature, -1) * (scores - following)).sum(-1)
