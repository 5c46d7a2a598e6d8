"""The optimizer, its parameter groups and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from align.config.schema import Optimizer
from align.learner.mixed_precision_adamw import MasterAdamW

if TYPE_CHECKING:
    from align.critics import RunningCritic
    from align.learner.policy import Policy
    from align.learner.reward_model import RewardModel


def make_optimizer(options: Optimizer, policy: Policy | RewardModel, critic: RunningCritic | None, critic_lr: float | None) -> MasterAdamW:
    """One optimizer, with groups for matrices and for what does not decay, and the same of the critic, whose rate may be its own."""
    groups = _groups([p for _, p in policy.trained()], options.weight_decay, options.lr)
    if critic is not None:
        groups += _groups([p for _, p in critic.trained()], options.weight_decay, critic_lr or options.lr)
    return MasterAdamW(groups, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=True)


def _groups(parameters: list[Tensor], weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Norms and biases do not decay: towards 0 they would switch their layer off. They are the tensors of less than two dimensions."""
    matrices, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    groups = [{"params": matrices, "full_lr": lr, "weight_decay": weight_decay}, {"params": others, "full_lr": lr, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def schedule(options: Optimizer, step: int, steps: int) -> float:
    """The fraction of the full rate at a step (from 0) of `steps`: linear warm-up that starts above 0, then a decay to the last step.

    It ends at `final_fraction`; where that is 0, at 1/n of its n steps, as transformers' linear schedule, so that no step has a rate of 0.
    """
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, steps - 1 - options.warmup_steps)
    if options.schedule == "linear":
        fraction = 1 - done
    elif options.schedule == "cosine":
        fraction = 0.5 * (1 + math.cos(math.pi * done))
    else:
        fraction = 1.0
    last = options.final_fraction or 1 / max(1, steps - options.warmup_steps)
    return last + (1 - last) * fraction
