"""AdamW, the learning-rate schedule, and gradient clipping."""

from __future__ import annotations

import math

import torch

from align.recipe import Optimizer


def make_optimizer(parameters: list[torch.nn.Parameter], options: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=True)


def learning_rate(options: Optimizer, step: int, steps: int) -> float:
    """The rate of the step (from 0) of `steps`: a linear warm-up whose first step is not 0, then the schedule down to the last step."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, steps - 1 - options.warmup_steps)
    if options.schedule == "linear":
        fraction = 1 - done
    elif options.schedule == "cosine":
        fraction = 0.5 * (1 + math.cos(math.pi * done))
    else:
        fraction = 1.0
    return options.lr * (options.final_fraction + (1 - options.final_fraction) * fraction)
