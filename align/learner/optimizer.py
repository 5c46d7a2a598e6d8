"""The optimizer, its parameter groups and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from align.config.schema import Optimizer
from align.learner.mixed_precision_adamw import MasterAdamW

if TYPE_CHECKING:
    from align.critics import RunningCritic
    from align.learner.policy import Policy
    from align.learner.reward_model import RewardModel


def make_optimizer(options: Optimizer, policy: Policy | RewardModel, critic: RunningCritic | None, critic_lr: float | None) -> MasterAdamW:
    """One optimizer. The critic is a separate group, because it may have its own learning rate."""
    groups = [{"params": [p for _, p in policy.trained()], "full_lr": options.lr}]
    if critic is not None:
        groups.append({"params": [p for _, p in critic.trained()], "full_lr": critic_lr or options.lr})
    return MasterAdamW(groups, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=True)


def schedule(options: Optimizer, step: int, steps: int) -> float:
    """The fraction of the full rate at a step (from 0) of `steps`: linear warm-up that starts above 0, then decay to the last step."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, steps - 1 - options.warmup_steps)
    if options.schedule == "linear":
        fraction = 1 - done
    elif options.schedule == "cosine":
        fraction = 0.5 * (1 + math.cos(math.pi * done))
    else:
        fraction = 1.0
    return options.final_fraction + (1 - options.final_fraction) * fraction
