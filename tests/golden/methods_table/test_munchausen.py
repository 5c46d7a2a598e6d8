"""Row 31: with the bonus and an entropy of weight tau, what is maximised is `E[Q] - alpha tau KL(pi||pi_old) + (1 - alpha) tau H(pi)`."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers.built import part
from helpers.enumeration import Problem
from torch import Tensor

FIVE = Problem(5)
OLD, Q = FIVE.random(1), FIVE.random(2)[0]
ALPHA, TAU = 0.7, 0.3


def entropy(pi: Tensor) -> Tensor:
    return -(pi * pi.log()).sum()


def test_row_31_the_bonus_is_a_proximal_term():
    batch = replace(FIVE.context(OLD, OLD, OLD).batch, advantages=Q)
    shaped = part("shaping", "munchausen", alpha=ALPHA, tau=TAU, floor=-1e3).advantages(batch, Q, "x")
    old = torch.softmax(OLD[0], -1)
    for seed in (3, 4):
        pi = torch.softmax(FIVE.random(seed)[0], -1)
        with_bonus = (pi * shaped).sum() + TAU * entropy(pi)
        proximal = (pi * Q).sum() - ALPHA * TAU * (pi * (pi / old).log()).sum() + (1 - ALPHA) * TAU * entropy(pi)
        torch.testing.assert_close(with_bonus, proximal, rtol=1e-14, atol=1e-14)


def test_at_q_2_the_bonus_and_the_tsallis_entropy_pull_alike():
    """d/dpi of `alpha tau <pi, ln'_2 pi_old> + tau S_2(pi)` at pi_old is `tau (alpha - 2) pi_old` up to a constant."""
    batch = FIVE.context(OLD, OLD, OLD).batch
    bonus = part("shaping", "munchausen", alpha=ALPHA, tau=TAU, q=2.0, floor=-1e3).advantages(batch, torch.zeros(5), "x")
    pi = torch.softmax(OLD[0], -1).requires_grad_()
    (slope,) = torch.autograd.grad((pi * bonus).sum() + TAU * (1 - pi.square().sum()), pi)
    expected = TAU * (ALPHA - 2) * pi.detach()
    torch.testing.assert_close(slope - slope.mean(), expected - expected.mean(), rtol=1e-12, atol=1e-14)
