"""Checks of an algorithm: a loss for each token that does not depend on the split of the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align.algorithms import Algorithm
from align.algorithms.srpo import SHOWN
from align.contexts import Link, RewardModelContext, TokenContext
from align.core.ranking import pairs
from align.core.segments import segment_sum
from align.oracle.enumeration import TREE, UPDATE, context, expectation, setting
from align.references import OF_ALGORITHM
from align.testing.findings import Finding, Kit
from align.testing.formulas import MEND, explained
from align.types import EARLY

KIT = Kit("algorithm")
NAME = "unused"
STEP = 1e-2
"""Size of a gradient step."""


def check_algorithm(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of an algorithm, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


class View(NamedTuple):
    """The context that the learner gives to an algorithm, and the leaves of its gradients."""

    ctx: TokenContext | RewardModelContext
    leaf: Tensor
    """The policy's logits; or the scores [S] if it trains a reward model."""
    values: Tensor | None
    """[T]; None without a critic."""
    advantages: Tensor | None


def view(a: Algorithm, drift: float = UPDATE) -> View:
    """Forty answers in float32, in pairs; as rankings of two and three if answers are ranked.

    With drift 0 every answer of a ranking has the same score, as at the start of training.
    """
    ctx, leaf = context(setting(TREE, drift), NAME, dtype=torch.float32)
    count, tokens = len(ctx.batch.lengths), len(ctx.batch.seq_ids)
    ref_logp = {} if a.reference is None else {OF_ALGORITHM: ctx.batch.ref_logp[NAME]}
    batch = replace(ctx.batch, advantages=None, ref_logp=ref_logp, penalty_weights={}, betas={})
    batch = replace(batch, algorithm_state=a.state_for(a.initial_state(), batch))
    if not a.rewarded:
        batch = replace(batch, rewards=None)
    if not a.samples:
        uniform = torch.full((tokens,), 1 / count)  # a data set's answers are not samples of the policy
        batch = replace(batch, sampler_logp=None, old_logp=None, loss_weights=uniform)
    if a.ranks:
        batch = replace(batch, group_ids=torch.repeat_interleave(torch.arange(count // 5 * 2), torch.tensor([2, 3] * (count // 5))))
    if a.labels:
        batch = replace(batch, labels=torch.arange(count) // 2 % 2)
    if a.trains_reward_model:
        leaf = (4 * drift * torch.cos(torch.arange(count) ** 2.0)).requires_grad_()
        return View(RewardModelContext(batch=batch, scores=leaf), leaf, None, None)
    values = None
    if a.links:
        score = segment_sum(ctx.logp - (ctx.batch.ref_logp[NAME] if drift else ctx.logp.detach()), batch.seq_ids, count)
        ctx = replace(ctx, link=Link(scores=score, log_ratio=score.detach(), beta=torch.full((count,), 0.5)))
        if a.labels:
            scored = replace(batch, old_logp=ctx.logp.detach(), ref_logp={NAME: ctx.batch.ref_logp[NAME]})
            batch = replace(batch, score_baselines=a.score_baselines(scored, score.detach(), NAME))
    if a.critic is not None:
        old = 0.3 * torch.cos(torch.arange(tokens) ** 2.0)
        values = (old + drift * torch.sin(old)).requires_grad_()
        batch = replace(batch, values=old)
        batch = replace(batch, returns=a.targets(batch.only(EARLY, a)))
    batch = replace(batch, advantages=a.advantages(batch.only(EARLY, a)))
    if a.revision is not None:
        shown = torch.arange(count // SHOWN * SHOWN)
        drafted, _ = select(replace(ctx, batch=replace(batch, group_ids=torch.arange(count) // SHOWN)), shown)
        return View(drafted, leaf, None, None)
    return View(replace(ctx, batch=batch, values=values), leaf, values, batch.advantages)


def select(ctx: TokenContext | RewardModelContext, sequences: Tensor) -> tuple[TokenContext | RewardModelContext, Tensor]:
    """A micro-batch of these sequences, and its tokens."""
    tokens, batch = torch.isin(ctx.batch.seq_ids, sequences), ctx.batch.select(sequences)
    if isinstance(ctx, RewardModelContext):
        return RewardModelContext(batch=batch, scores=ctx.scores[sequences]), tokens
    link = ctx.link and Link(scores=ctx.link.scores[sequences], log_ratio=ctx.link.log_ratio[sequences], beta=ctx.link.beta[sequences])
    values = None if ctx.values is None else ctx.values[tokens]
    return TokenContext(batch=batch, logp=ctx.logp[tokens], entropy=ctx.entropy[tokens], values=values, link=link), tokens


def _numbers(found: Tensor, tokens: int) -> str | None:
    if found.shape != (tokens,) or found.dtype != torch.float32 or found.requires_grad or not found.isfinite().all():
        return f"{list(found.shape)} {found.dtype}, {'not ' if not found.isfinite().all() else ''}all finite, of {tokens} tokens"
    return None


@KIT.check("keys", "call self.check() in __post_init__, and set epochs and minibatches to at least 1")
def _keys(a: Algorithm) -> str | None:
    """reduction, epochs and minibatches are valid for the learner"""
    a.check()
    return None


@KIT.check("advantages", "return a detached float32 tensor of shape [T] from batch.rewards, or None if the loss uses none")
def _advantages(a: Algorithm) -> str | None:
    """None, or finite detached numbers, one per token; also for equal rewards"""
    ctx, _, _, found = view(a)
    if found is None:
        return None
    batch = ctx.batch.only(EARLY, a)
    equal = a.advantages(replace(batch, rewards=torch.ones_like(batch.rewards)))
    finite = equal is not None and equal.isfinite().all()
    return _numbers(found, len(batch.seq_ids)) or (None if finite else "they are not finite where all rewards are equal")


@KIT.check("targets", "return a detached float32 tensor of shape [T] if there is a critic, else leave it out")
def _targets(a: Algorithm) -> str | None:
    """the critic's targets: finite detached numbers, one per token; None without a critic"""
    batch = view(a).ctx.batch
    found = a.targets(batch.only(EARLY, a))
    if a.critic is None:
        return None if found is None else "there is no critic to be fitted to them"
    return "there are none, and a critic is fitted to them" if found is None else _numbers(found, len(batch.seq_ids))


@KIT.check("loss", "return (loss [T], statistics {name: [N]}); let gradients flow through ctx.logp, log_rho, values, link.scores or scores")
def _loss(a: Algorithm) -> str | None:
    """finite numbers, one per token; statistics, each per token, answer or pair; a gradient for everything that is trained"""
    for drift in (0.0, UPDATE):
        ctx, leaf, values, advantages = view(a, drift)
        loss, stats = a.loss(ctx, advantages)
        tokens, answers, of_pairs = len(ctx.batch.seq_ids), len(ctx.batch.lengths), len(pairs(ctx.batch.group_ids)[0])
        if loss.shape != (tokens,) or not loss.isfinite().all():
            return f"loss is {list(loss.shape)} or not finite, of {tokens} tokens"
        for name, x in stats.items():
            if x.ndim != 1 or len(x) not in (tokens, answers, of_pairs) or not x.isfinite().all() or x.requires_grad:
                return f"{name} is {list(x.shape)}, not finite or not detached, of {tokens} tokens in {answers} answers"
        for name, x in {"policy": leaf, "critic": values}.items():
            if x is not None and not a.distils:  # the regularizers have the gradients
                (gradient,) = torch.autograd.grad(loss.sum(), x, retain_graph=True, allow_unused=True)
                if gradient is None or not gradient.isfinite().all() or not gradient.abs().max() > 0:
                    return f"its gradient for the {'reward model' if a.trains_reward_model else name} is zero, or not finite"
    return None


@KIT.check("direction", "return what is to be minimised: the negative of an objective")
def _direction(a: Algorithm) -> str | None:
    """on-policy, a step down a loss of its own raises the probability of answers with a higher advantage or rank, and of demonstrations"""
    if a.distils:
        return None
    ctx, leaf, _, advantages = view(a, 0.0)
    loss, _ = a.loss(ctx, advantages)
    (gradient,) = torch.autograd.grad(expectation(ctx.batch, loss), leaf)
    following = (leaf - STEP * gradient).detach()
    if a.ranks:
        better, worse = pairs(ctx.batch.group_ids)
        gained = following - leaf.detach() if a.trains_reward_model else TREE.answer_logp(following) - TREE.answer_logp(leaf.detach())
        return None if (gained[better] - gained[worse]).sum() > 0 else "the worse answers gain on the better ones"
    if a.labels:
        gained, good = TREE.answer_logp(following) - TREE.answer_logp(leaf.detach()), ctx.batch.labels == 1
        return None if gained[good].sum() > gained[~good].sum() else "the bad answers gain on the good ones"
    moved = TREE.token_logp(following) - TREE.token_logp(leaf.detach())
    return None if expectation(ctx.batch, moved if advantages is None else advantages * moved) > 0 else "it makes them less likely"


@KIT.check("any split", "compute a sequence's loss from its own tokens, or its own ranking, only: the whole batch enters by `advantages`")
def _split(a: Algorithm) -> str | None:
    """each token has the same loss in a micro-batch and in the whole batch"""
    ctx, _, _, advantages = view(a)
    whole, _ = a.loss(ctx, advantages)
    every = torch.arange(len(ctx.batch.lengths))
    micro, tokens = select(ctx, every[ctx.batch.group_ids % 3 == 1] if a.whole_groups else every[::3])
    part, _ = a.loss(micro, None if advantages is None else advantages[tokens])
    return None if torch.allclose(part, whole[tokens], atol=1e-6) else "a micro-batch gives other numbers"


@KIT.check("beta", "multiply the scores of a link by `ctx.link.beta`, one per answer: it is the coefficient")
def _beta(a: Algorithm) -> str | None:
    """with a link, another beta for one ranking changes the loss of that ranking, and of no other"""
    if not a.links:
        return None
    ctx, _, _, advantages = view(a)
    assert isinstance(ctx, TokenContext) and ctx.link is not None  # `view` makes one
    link = ctx.link
    first = ctx.batch.group_ids == 0
    one, two = (a.loss(c, advantages)[0] for c in (ctx, replace(ctx, link=replace(link, beta=torch.where(first, 2.0, 0.5)))))
    of_first = first[ctx.batch.seq_ids]
    return None if not torch.allclose(one[of_first], two[of_first]) and torch.equal(one[~of_first], two[~of_first]) else "it does not"


@KIT.check("measures", "return {name: number} from `measures`, computed from the batch; or leave it out")
def _measures(a: Algorithm) -> str | None:
    """metrics of the whole batch are numbers by name"""
    found = a.measures(view(a).ctx.batch.only(EARLY, a))
    wrong = next((name for name, x in found.items() if not isinstance(name, str) or type(x) not in (int, float)), None)
    return None if wrong is None else f"{wrong} is a {type(found[wrong]).__name__}"


@KIT.check("state", "return from `update_state` a new mapping of JSON values with the keys of `initial_state`; or leave both out")
def _state(a: Algorithm) -> str | None:
    """the state after a batch has JSON values and the keys of the initial one, which is not written into"""
    state = a.initial_state()
    if not a.samples:
        return None if not state else "it learns from data that are the same every time"
    before = json.dumps(state)
    following = a.update_state(state, view(a).ctx.batch.only(EARLY, a))
    if json.dumps(state) != before:
        return "the initial state was written into"
    return None if json.loads(json.dumps(following)).keys() == state.keys() else f"it has the keys {', '.join(following)}"


@KIT.check("explained", MEND)
def _explained(a: Algorithm) -> str | None:
    """it states its objective and the meaning of the symbols"""
    return explained(a)
