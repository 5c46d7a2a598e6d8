from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.algorithms._labelled import Labelled
from align.types import TokenBatch


@dataclass(frozen=True)
class Bco(Labelled):
    """Binary classifier optimisation of answers labelled good or bad (Jung et al. 2404.04656): cross-entropy of the implicit reward.

    The loss of a good answer is `-log sigmoid(beta (s - delta))`, of a bad one `-log sigmoid(beta (delta - s))`, with the reward shift
    delta the mean of the mean scores of the batch's good and of its bad answers, without a gradient. The paper's delta is an expectation
    over the data, which TRL's trainer averages over batches; its correction for prompts that differ between good and bad data is not here.
    """

    def formula(self) -> str:
        return self._said("log σ(β (s − δ))", "log σ(β (δ − s))")

    def symbols(self) -> dict[str, str]:
        return super().symbols() | {"δ": "half the mean s of the batch's good answers plus half that of its bad ones, at π_old"}

    def of_margins(self, margins: Tensor) -> Tensor:
        return -logsigmoid(margins)

    def score_baselines(self, batch: TokenBatch, scores: Tensor, name: str) -> Tensor:
        assert batch.labels is not None  # of a batch of labelled answers
        means = [scores[batch.labels == label].mean() for label in (0, 1) if (batch.labels == label).any()]
        return torch.stack(means).mean().expand_as(scores)
