"""Preference losses: one number a pair, [P] -> [P], to be minimised.

All have one signature, so that another is one more function here:

    loss(chosen, rejected, beta, label_smoothing) -> [P]

Args: chosen, rejected [P]: the scores of both answers (core/links.py), for KL(pi||ref) their log-ratios log pi/ref in nats, differentiable;
beta: a number or [P]; label_smoothing e in [0, 1/2): the probability that a label is the wrong way round, read by those in `SMOOTHED`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SMOOTHED = frozenset({"cdpo", "robust"})
"""The losses that read `label_smoothing`."""


def sigmoid(chosen: Tensor, rejected: Tensor, beta: Tensor | float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta D), D = chosen - rejected (DPO, Rafailov et al. 2305.18290): Bradley-Terry on the implicit rewards."""
    return -logsigmoid(beta * (chosen - rejected))


def hinge(chosen: Tensor, rejected: Tensor, beta: Tensor | float, label_smoothing: float = 0.0) -> Tensor:
    """max(0, 1 - beta D) (SLiC, Zhao et al. 2305.10425)."""
    return torch.relu(1 - beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, beta: Tensor | float, label_smoothing: float = 0.0) -> Tensor:
    """(D - 1/(2 beta))^2, beta > 0 (IPO, Azar et al. 2310.12036, equation 17).

    Of whole-answer scores, as the paper writes it; TRL divides each score by the answer's length first, which the caller may do.
    """
    return (chosen - rejected - 0.5 / beta).square()


def cdpo(chosen: Tensor, rejected: Tensor, beta: Tensor | float, label_smoothing: float) -> Tensor:
    """-(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D) (Mitchell's conservative DPO): stationary at beta D = log((1 - e)/e)."""
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def robust(chosen: Tensor, rejected: Tensor, beta: Tensor | float, label_smoothing: float) -> Tensor:
    """(-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D))/(1 - 2e) (Chowdhury et al. 2403.00409).

    Its mean over labels flipped with probability e is the DPO loss of the true labels; unbounded below.
    """
    margin = beta * (chosen - rejected)
    clean, flipped = -logsigmoid(margin), -logsigmoid(-margin)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)
