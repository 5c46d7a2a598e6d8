"""A population of rankings over the answers of a small tree, the recipe that learns from it through a link, and what the learner computes.

A population is every ordered pair of the answers as a group of two, best first; the weight of a pair is how often it is labelled so.
"""

from __future__ import annotations

import torch
from helpers.built import single_turn
from helpers.definitions import Known
from helpers.enumeration import NAME, Problem
from torch import Tensor

from align.config import recipes
from align.config.schema import Recipe
from align.contexts import TokenContext
from align.learner import objective
from align.learner.metric_accumulator import MetricAccumulator
from align.types import Stat, TokenBatch

TREE = Problem(3, 2, end=1)
"""Seven answers of one or two tokens."""
BETA = 0.5
"""Not 1, and a power of two: it and its inverse travel in float32."""


def built(algorithm: dict | str = "dpo", **regularizer) -> Recipe:
    """A recipe that learns preferences through this link, checked as every recipe is."""
    return recipes.build(
        {
            "steps": 4,
            "task": {"name": "preferences", "path": "nowhere.jsonl"},
            "algorithm": algorithm,
            "model": {"path": "nowhere"},
            "regularizers": {NAME: {"placement": "link", "coefficient": BETA} | regularizer},
        }
    )


def rankings(
    problem: Problem,
    orders: list[tuple[int, ...]],
    logits: Tensor,
    ref: Tensor,
    weights: Tensor | None = None,
    multipliers: Tensor | None = None,
) -> TokenContext:
    """Each order of answers as a group, best first; `weights` [G] as the share of each in the mean over all answers."""
    answers = [problem.answers[i] for order in orders for i in order]
    token = {s: [] for s in range(len(problem.answers))}
    for t, (s, *_) in enumerate(problem.steps()):
        token[s].append(t)
    at = torch.tensor([t for order in orders for i in order for t in token[i]])
    lengths = torch.tensor([len(a) for a in answers])
    seq_ids = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    group_ids = torch.repeat_interleave(torch.arange(len(orders)), torch.tensor([len(order) for order in orders]))
    share = torch.full((len(orders),), 1 / len(orders), dtype=torch.float64) if weights is None else weights
    each = share[group_ids] / torch.bincount(group_ids)[group_ids]
    batch = TokenBatch(
        input_ids=torch.zeros(len(answers), 1 + problem.depth, dtype=torch.int64),
        **single_turn(torch.ones_like(lengths), lengths),
        group_ids=group_ids,
        loss_weights=each[seq_ids],
        ref_logp={NAME: problem.token_logp(ref)[at]},
        betas={NAME: BETA},
        prompt_ids=tuple(map(str, group_ids.tolist())),
        multipliers={} if multipliers is None else {NAME: multipliers},
        penalty_weights={NAME: torch.ones(len(seq_ids), dtype=torch.float64)},
    )
    return TokenContext(batch=batch, logp=problem.token_logp(logits)[at], entropy=torch.zeros(len(seq_ids)))


def total(made: Recipe, ctx: TokenContext) -> tuple[Tensor, dict[str, Stat]]:
    """What the learner differentiates, and what it reports."""
    losses, tally = MetricAccumulator(), MetricAccumulator()
    loss = objective.total(made, ctx, losses, tally)
    tally.merge(losses)
    return loss, tally.stats()


def ratio(ctx: TokenContext) -> Tensor:
    """log pi/ref of whole answers, by hand."""
    per_token = ctx.logp - ctx.batch.ref_logp[NAME]
    return torch.stack([per_token[ctx.batch.seq_ids == s].sum() for s in range(len(ctx.batch.lengths))])


def slope(known: Known, log_u: Tensor) -> Tensor:
    """f'(u), by autograd of f as its paper writes it."""
    u = log_u.exp().requires_grad_()
    (found,) = torch.autograd.grad(known(u).sum(), u)
    return found
