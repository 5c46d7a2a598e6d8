"""What the algorithms of labelled answers share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.algorithms import Algorithm, at_first_tokens
from align.config.nodes import build_part, part
from align.config.ranges import Positive
from align.contexts import TokenContext


@dataclass(frozen=True)
class Labelled(Algorithm[TokenContext, None]):
    """A loss of single answers, each labelled good or bad, of the implicit reward beta s of a link."""

    needs = frozenset({"old_logp", "ref_logp"})
    samples = False
    labels = True
    links = True
    reduction = build_part("reduction", "sequence_sum", "reduction")

    loss_weighting: Any = part("loss_weighting", optional=True)
    good_weight: Positive = 1.0
    """Of the good answers' losses. KTO's authors keep good_weight x their number within 1 and 4/3 of the same for the bad ones."""
    bad_weight: Positive = 1.0
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self):
        self.check()

    @abstractmethod
    def of_margins(self, margins: Tensor) -> Tensor:
        """The loss of a good answer, [S], from beta (s - baseline); of a bad one it is that of the negative margin."""

    def loss(self, ctx: TokenContext, advantages: None) -> tuple[Tensor, dict[str, Tensor]]:
        link, labels, baselines = ctx.link, ctx.batch.labels, ctx.batch.score_baselines
        assert link is not None and labels is not None and baselines is not None  # `links` and `labels`
        good = labels == 1
        margins = torch.where(good, 1.0, -1.0) * link.beta * (link.scores - baselines)
        losses = torch.where(good, self.good_weight, self.bad_weight) * self.of_margins(margins)
        rewards = (link.beta * link.scores).detach()
        return at_first_tokens(losses, ctx.batch), {
            "labelled/good": rewards[good],
            "labelled/bad": rewards[~good],
            "labelled/baseline": link.beta * baselines,
            "labelled/accuracy": 0.5 * (1 + torch.sign(margins.detach())),
        }

    def _said(self, of_good: str, of_bad: str) -> str:
        return f"{self._times(self.good_weight)}{of_good} for good answers, {self._times(self.bad_weight)}{of_bad} for bad ones"

    def _times(self, weight: float) -> str:
        return "" if weight == 1 else f"{weight:g} "

    def symbols(self) -> dict[str, str]:
        return {"s": "f'(u) − f'(1) at u = π/ref of the whole answer"}
