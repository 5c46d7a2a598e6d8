"""A critic: what reward is still to be expected at each token of an answer.

Check it with `align check ./skeleton.py:Skeleton`. In a recipe:

    algorithm: {name: ppo, critic: "./skeleton.py:Skeleton"}
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from align.critics import Critic, RunningCritic
from align.learner.policy import Policy
from align.types import TokenBatch


class Skeleton(Critic):
    """Two layers on the states of the policy."""

    width: int = 64

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")

    def start(self, policy: Policy) -> RunningCritic:
        """Make what the run trains; called once."""
        return RunningSkeleton(policy, self.width)


class RunningSkeleton(RunningCritic):
    """The parameters of one run."""

    def __init__(self, policy: Policy, width: int):
        states = policy.head().weight.shape[1]
        layers = torch.nn.Linear(states, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        self._layers = torch.nn.Sequential(*layers).to(policy.device)

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The trained parameters; their names begin with `critic.`."""
        return ((f"critic.{name}", p) for name, p in self._layers.named_parameters())

    def values(self, micro: TokenBatch, hidden: Tensor) -> Tensor:
        """Float32 [T], differentiable. Args: hidden: [T, H], the policy's state before each token."""
        return self._layers(hidden.float()).squeeze(-1)
