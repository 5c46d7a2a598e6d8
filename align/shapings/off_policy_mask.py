from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.core.segments import segment_sum
from align.shapings import Shaping
from align.types import Columns


@dataclass(frozen=True)
class OffPolicyMask(Shaping):
    """Answers to be unlearned are dropped where the sampler was too far off (DeepSeek-V3.2 2512.02556; TRL's `off_policy_mask_threshold`).

    A token is kept if A >= 0 or the answer's mean of `log mu - log pi_old`, a k1 estimate of KL(mu||pi_old) a token, is at most
    `threshold`; else its advantage is 0, and the reduction still counts it. TRL measures against the policy of each update; here the
    answer is judged once, before the first.
    """

    needs = frozenset({"old_logp"})

    threshold: float
    """Nats a token."""

    def advantages(self, batch: Columns, advantages: Float[Tensor, "T"], name: str) -> Float[Tensor, "T"]:
        assert batch.sampler_logp is not None  # a shaping is of rollouts, which an engine drew
        gap = segment_sum(batch.sampler_logp - batch.old_logp, batch.seq_ids, len(batch.lengths)) / batch.lengths
        kept = (advantages >= 0) | (gap <= self.threshold)[batch.seq_ids]
        return torch.where(kept, advantages, 0.0)
