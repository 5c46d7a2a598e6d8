"""Checks of a preference: a loss for each pair or ranking that raises the better answer's score above the worse one's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.preferences import Preference, Rankings
from align.testing.findings import Finding, Kit, shown
from align.testing.formulas import MEND, explained

KIT = Kit("preference")
FAR = 200.0
"""A margin at which an exponential overflows in float32."""


def check_preference(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a preference, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def rankings(scores: Tensor, beta: float = 0.5) -> Rankings:
    """Rankings of three, two and two answers with these scores [7], each with its own log-probs and lengths."""
    n = torch.arange(7)
    return Rankings(
        scores=scores,
        beta=torch.full((7,), beta),
        lengths=3 + n % 4,
        ids=torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        logp=(-4 - torch.cos(n**2.0)).requires_grad_(),
        log_ratio=torch.sin(n**2.0),
    )


SCORES = torch.tensor([0.4, -0.3, 0.1, -0.2, 0.6, 1.0, 0.8])


def pull(p: Preference, scores: Tensor, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """The loss of each ranking, and its gradient in the scores (in the log-probs if it reads no scores)."""
    given = rankings(scores.clone().requires_grad_(), beta)
    losses = p.of_rankings(given)
    leaves = [x for x in (given.scores, given.logp) if x is not None]
    found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    return losses, sum((x for x in found if x is not None), torch.zeros_like(scores))


def _wrong(losses: Tensor, count: int, of: str) -> str | None:
    if losses.shape != (count,) or losses.dtype != torch.float32 or not losses.isfinite().all():
        return f"{list(losses.shape)} {losses.dtype}{'' if losses.isfinite().all() else ', not all finite'}, of {count} {of}"
    return None


@KIT.check("losses", "return float32 [P] from `losses` ([G] from an `of_rankings`); use logsigmoid, not the log of sigmoid")
def _losses(p: Preference) -> str | None:
    """a finite float32 loss with a finite gradient for each pair and each ranking, also at a margin of two hundred"""
    for scores in (SCORES, torch.zeros(7), FAR * SCORES.sign()):
        given = rankings(scores)
        losses, gradient = pull(p, scores)
        wrong = _wrong(p.losses(given.pairs()[0]), 5, "pairs") or _wrong(losses, 3, "rankings")
        if wrong or not gradient.isfinite().all():
            return wrong or "its gradient is not finite"
    return None


@KIT.check("direction", "return a loss to minimise: it must fall as the better answer's score rises")
def _direction(p: Preference) -> str | None:
    """from equal scores, a step down the loss raises the best answer of each ranking above the worst"""
    _, gradient = pull(p, torch.zeros(7))
    gained = -(gradient[[0, 3, 5]] - gradient[[2, 4, 6]])
    return None if (gained > 0).all() else f"the best gain {shown(gained)} on the worst"


@KIT.check("pair by pair", "compute each loss from its own pair or ranking only")
def _apart(p: Preference) -> str | None:
    """another ranking changes no loss of this one"""
    pairs, _ = rankings(SCORES).pairs()
    first = replace(pairs, **{name: x[:1] for name, x in vars(pairs).items() if x is not None})
    if not torch.allclose(p.losses(first), p.losses(pairs)[:1], atol=1e-6):
        return "a pair alone has another loss"
    moved = SCORES.clone()
    moved[3:] += torch.tensor([1.0, -1.0, 0.5, 2.0])
    return None if torch.equal(p.of_rankings(rankings(SCORES))[:1], p.of_rankings(rankings(moved))[:1]) else "another ranking changes it"


@KIT.check("beta", "read `pairs.beta`, one per pair: it is the coefficient of the link")
def _beta(p: Preference) -> str | None:
    """another beta of one ranking changes the loss of that ranking, and of no other"""
    given = rankings(SCORES)
    other = replace(given, beta=torch.where(given.ids == 0, 2.0, given.beta))
    one, two = p.of_rankings(given), p.of_rankings(other)
    return None if not torch.allclose(one[:1], two[:1]) and torch.equal(one[1:], two[1:]) else "it does not"


@KIT.check("explained", MEND)
def _explained(p: Preference) -> str | None:
    """it states its objective and the meaning of the symbols"""
    return explained(p)
