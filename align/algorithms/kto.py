from dataclasses import dataclass

import torch
from torch import Tensor

from align.algorithms._labelled import Labelled
from align.config.parts import Setting
from align.core.segments import segment_sum
from align.types import TokenBatch


@dataclass(frozen=True)
class Kto(Labelled):
    """Kahneman-Tversky optimisation of answers labelled good or bad (Ethayarajh et al. 2402.01306, equation 7).

    The loss of a good answer is `good_weight (1 - sigmoid(beta (s - z)))`, of a bad one `bad_weight (1 - sigmoid(beta (z - s)))`. z is
    their estimate of KL(pi||ref), the mean log pi/ref of answers to other prompts of the batch, at least 0 and without a gradient: two
    forward passes more. Each answer of a batch is shown once more behind the prompt of the next group of another prompt (the paper
    shifts by one answer, which in paired data would be the same prompt); in a batch with a single prompt z is 0, and data with a single
    prompt are refused. The rows of the task `preferences` are read as labelled answers.
    """

    mismatched = True

    def refuse(self, setting: Setting) -> str | None:
        per_update = setting.recipe.batch.prompts
        return None if per_update > 1 else "compares with answers to other prompts of the batch: batch.prompts must be 2 or more"

    def formula(self) -> str:
        return self._said("σ(β (s − z))", "σ(β (z − s))")

    def symbols(self) -> dict[str, str]:
        return super().symbols() | {"z": "max(0, the mean of log π_old/ref over the batch's answers to other prompts)"}

    def of_margins(self, margins: Tensor) -> Tensor:
        return torch.sigmoid(-margins)

    def score_baselines(self, batch: TokenBatch, scores: Tensor, name: str) -> Tensor:
        assert batch.old_logp is not None and batch.labels is not None  # of a scored batch of labelled answers
        log_ratio = segment_sum(batch.old_logp - batch.ref_logp[name], batch.seq_ids, len(scores))
        others = batch.labels < 0
        kl = log_ratio[others].sum() / others.sum().clamp_min(1)
        return kl.clamp_min(0).expand_as(scores)
