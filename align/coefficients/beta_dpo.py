from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from align.coefficients import Coefficient, State
from align.coefficients._checks import positive
from align.core.ranking import pairs
from align.core.segments import segment_sum
from align.types import Columns


@dataclass(frozen=True)
class BetaDpo(Coefficient):
    """beta-DPO (Wu et al. 2407.08639): pairs that the policy tells apart more than usual weigh with a larger beta.

    beta_i = value * (1 + sensitivity * (M_i - M_0)), M_i the implicit-reward margin value * (lr_w - lr_l) of the pair under the policy
    that scores the batch (of a ranking, the mean over its pairs), lr = log pi/ref of the answer in nats; M_0 its running mean over
    batches, 0 at first. The paper has one beta a batch, `per: batch`, from the batch's mean margin, and filters pairs too, which
    this does not. At least a hundredth of `value`.
    """

    needs = frozenset({"old_logp", "ref_logp"})
    compares = True

    value: float = 0.1
    sensitivity: float = 0.6
    momentum: float = 0.9
    """Of M_0."""
    per: str = "pair"
    """`pair` or `batch`."""

    def __post_init__(self):
        positive(self, "value", "sensitivity")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {self.momentum}")
        if self.per not in ("pair", "batch"):
            raise ValueError(f"per must be pair or batch, not {self.per!r}")

    def initial_state(self) -> State:
        return {"usual": 0.0}

    def beta(self, step: int, state: State) -> float:
        return self.value

    def multipliers(self, batch: Columns, name: str, state: State) -> Float[Tensor, "S"]:
        margins = self._margins(batch, name)
        if self.per == "batch":
            margins = margins.mean().expand_as(margins)
        return (1 + self.sensitivity * (margins - state["usual"])).clamp_min(0.01)[batch.group_ids].float()

    def update_batch(self, state: State, batch: Columns, name: str) -> State:
        return {"usual": self.momentum * state["usual"] + (1 - self.momentum) * self._margins(batch, name).mean().item()}

    def _margins(self, batch: Columns, name: str) -> Float[Tensor, "G"]:
        """M_i of each group."""
        log_ratio = segment_sum(batch.old_logp - batch.ref_logp[name], batch.seq_ids, len(batch.lengths))
        better, worse = pairs(batch.group_ids)
        groups = batch.group_ids[better]
        count = int(batch.group_ids.max()) + 1
        return segment_sum(self.value * (log_ratio[better] - log_ratio[worse]), groups, count) / torch.bincount(groups, minlength=count)
