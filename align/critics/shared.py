from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from align.critics import Critic, RunningCritic

if TYPE_CHECKING:
    from align.learner.policy import Policy
    from align.types import TokenBatch


@dataclass(frozen=True)
class Shared(Critic):
    """A linear value head on the policy's own states: one forward pass serves both (Ziegler et al. 1909.08593).

    Zero at first, and float32 whatever the policy is. With LoRA the value loss moves the adapters.
    """

    lr: float | None = None
    """Of the head; None: the optimizer's."""
    detach: bool = False
    """true: the value loss does not move the policy's backbone."""

    def __post_init__(self):
        self.check()

    def start(self, policy: Policy) -> RunningCritic:
        return _Head(policy, self.detach)


class _Head(RunningCritic):
    def __init__(self, policy: Policy, detach: bool):
        self._detach = detach
        self._head = torch.nn.Linear(policy.head().weight.shape[1], 1, device=policy.device)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((f"critic.{n}", p) for n, p in self._head.named_parameters())

    def values(self, micro: TokenBatch, hidden: Float[Tensor, "T H"]) -> Float[Tensor, "T"]:
        return self._head((hidden.detach() if self._detach else hidden).float()).squeeze(-1)
