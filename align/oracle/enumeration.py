"""Problems small enough to enumerate: a batch has every answer once, so an expectation is an exact sum, in float64.

A tabular policy has logits [P, V], one row for each of the P possible prefixes of an answer. The batch's `loss_weights` are the
behaviour policy's probability of each answer, so `(loss_weights * x).sum()` over its tokens is the expectation, under that policy,
of the sum of x over an answer. There are no random numbers: the policies' logits are sine waves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from align.contexts import TokenContext
from align.core.logprobs import Compared, Head, every_token, token_stats
from align.divergences import Divergence, StateFunctional
from align.types import TokenBatch

Outcomes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps (log pi, log ref) [..., V] to the outcomes [..., K] of the divergence."""

REFERENCE, AWAY, NOISE = 1, 2, 3
"""Frequencies of the waves in a setting."""
UPDATE = 0.25
"""The size of one update of the policy, in standard deviations of a logit."""


@dataclass(frozen=True)
class Problem:
    """All answers of up to `depth` tokens over a vocabulary; the token `end`, if there is one, stops an answer early."""

    name: str
    vocabulary: int
    depth: int = 1
    end: int | None = None

    @cached_property
    def _tree(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        prefixes: list[tuple[int, ...]] = [()]
        answers: list[tuple[int, ...]] = []
        for prefix in prefixes:
            for token in range(self.vocabulary):
                done = len(prefix) + 1 == self.depth or token == self.end
                (answers if done else prefixes).append((*prefix, token))
        return prefixes, answers

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """[P], each after the prefixes that it extends."""
        return self._tree[0]

    @property
    def answers(self) -> list[tuple[int, ...]]:
        """The tokens of every answer, [S]."""
        return self._tree[1]

    @cached_property
    def steps(self) -> Tensor:
        """int64 [4, T]: answer, position, prefix and token of every response token, packed."""
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        return torch.tensor([(s, t, row[a[:t]], token) for s, a in enumerate(self.answers) for t, token in enumerate(a)]).T

    def test_logits(self, frequency: int) -> Tensor:
        """Irregular logits [P, V] of unit variance, reproducible without a generator: sqrt(2) sin(frequency (1 + i)^2) at entry i."""
        places = 1 + torch.arange(len(self.prefixes) * self.vocabulary, dtype=torch.float64)
        return math.sqrt(2) * torch.sin(frequency * places**2).view(len(self.prefixes), self.vocabulary)

    def token_logp(self, logits: Tensor) -> Tensor:
        """log pi of every packed token, [T]."""
        return torch.log_softmax(logits, -1)[self.steps[2], self.steps[3]]

    def answer_logp(self, logits: Tensor) -> Tensor:
        """log pi of every answer, [S]."""
        return torch.zeros(len(self.answers), dtype=logits.dtype).index_add(0, self.steps[0], self.token_logp(logits))

    def reach(self, logits: Tensor) -> Tensor:
        """The probability of each prefix, [P], differentiable."""
        table = torch.softmax(logits, -1)
        reached: dict[tuple[int, ...], Tensor] = {(): torch.ones((), dtype=logits.dtype)}
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        for prefix in self.prefixes[1:]:
            reached[prefix] = reached[prefix[:-1]] * table[row[prefix[:-1]], prefix[-1]]
        return torch.stack(list(reached.values()))


ONE_TOKEN = Problem("one token", vocabulary=6)
TREE = Problem("tree", vocabulary=4, depth=3, end=3)
"""Answers of one to three tokens."""


@dataclass(frozen=True)
class Policies:
    """Three policies over one problem, logits float64 [P, V]."""

    problem: Problem
    policy: Tensor
    old: Tensor | None
    """pi_old, which drew the answers; None if the policy itself drew them."""
    reference: Tensor

    @property
    def behaviour(self) -> Tensor:
        return self.policy if self.old is None else self.old


def setting(problem: Problem, drift: float = 0.0) -> Policies:
    """A policy that has moved away from its reference, as in training with a reward.

    `drift`: how far it has moved since its answers were drawn, half of it further away; `UPDATE` is one stale update.
    """
    reference, away = problem.test_logits(REFERENCE), problem.test_logits(AWAY)
    policy = reference + away
    return Policies(problem, policy, policy - drift * (away + problem.test_logits(NOISE)) if drift else None, reference)


def context(
    at: Policies, name: str, exact: Divergence | None = None, outcomes: Outcomes = every_token, dtype: torch.dtype = torch.float64
) -> tuple[TokenContext, Tensor]:
    """The learner's context of the whole enumeration, and the leaf [P, V] that receives its gradients.

    Args: name: of the regularizer, for its entries in the batch; exact: fills `ctx.exact` with this divergence over the outcomes.
    """
    ctx, leaf, _ = context_by_token(at, name, exact, outcomes, dtype)
    return ctx, leaf


def context_by_token(
    at: Policies, name: str, exact: Divergence | None = None, outcomes: Outcomes = every_token, dtype: torch.dtype = torch.float64
) -> tuple[TokenContext, Tensor, Tensor]:
    """The same, and the rows of the leaf that the tokens read, [T, V]: each token has its own, so one pass gives the gradients of all."""
    problem, leaf, reference = at.problem, at.policy.to(dtype, copy=True).requires_grad_(), at.reference.to(dtype)
    seq_ids, positions, prefix, tokens = problem.steps.clone()  # a part that writes into the batch changes only this copy
    count = len(problem.answers)
    # Prompts differ in length, and in every other sequence a one-token tool output precedes each token. No part may read tool outputs, or
    # tokens after an answer.
    prompt_lengths, apart = 1 + torch.arange(count) % 3, 1 + torch.arange(count) % 2
    lengths = torch.bincount(seq_ids, minlength=count)
    totals, columns = prompt_lengths + apart * lengths, (prompt_lengths - 1)[seq_ids] + apart[seq_ids] * (positions + 1)
    input_ids = torch.full((count, 2 * problem.depth + 4), -(10**6))
    input_ids[seq_ids, columns] = tokens
    rows, states = leaf[prefix], torch.eye(len(prefix), dtype=dtype)
    compared = {} if exact is None else {name: Compared(exact, states, Head(reference[prefix].T), outcomes)}
    stats = token_stats(states, Head(rows.T), tokens, compared=compared)
    behaviour = problem.token_logp(at.behaviour).to(dtype)
    signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).to(dtype)
    batch = TokenBatch(
        input_ids=input_ids,
        totals=totals,
        lengths=lengths,
        seq_ids=seq_ids,
        positions=positions,
        columns=columns,
        group_ids=torch.arange(count) // 2,
        prompt_ids=tuple(f"prompt-{i // 2}" for i in range(count)),
        rewards=(signs > 0).to(dtype),
        advantages=signs[seq_ids],
        sampler_logp=behaviour,
        old_logp=None if at.old is None else behaviour,
        entropy=stats.entropy,
        ref_logp={name: problem.token_logp(reference)},
        loss_weights=problem.answer_logp(at.behaviour).exp().to(dtype)[seq_ids],
        penalty_weights={name: torch.ones(len(seq_ids), dtype=dtype)},
        betas={name: 1.0},
    )
    return TokenContext(batch=batch, logp=stats.logp, entropy=stats.entropy, exact=stats.exact), leaf, rows


def expectation(batch: TokenBatch, x: Tensor) -> Tensor:
    """The expected sum of x [T] over an answer, under the behaviour policy of a `context`."""
    assert batch.loss_weights is not None  # `context` sets them
    return (batch.loss_weights * x).sum()


def objective(divergence: Divergence, credit: str, at: Policies, logits: Tensor, outcomes: Outcomes = every_token) -> Tensor:
    """The objective of a credit: its divergence from the reference, differentiable in the policy's logits [P, V].

    It uses the definition `E_ref[f(u)]` and autograd through f, without estimates or closed forms.
    """
    problem = at.problem
    if credit == "sequence":
        return _divergence(divergence, problem.answer_logp(logits), problem.answer_logp(at.reference))
    states = _divergence(divergence, *outcomes(torch.log_softmax(logits, -1), torch.log_softmax(at.reference, -1)))
    reach = problem.reach(at.behaviour).detach() if credit == "local" else problem.reach(logits)
    return (reach * states).sum()


def _divergence(divergence: Divergence, logp: Tensor, ref_logp: Tensor) -> Tensor:
    if isinstance(divergence, StateFunctional):
        return divergence.of_state(logp, ref_logp)
    return divergence.transform((ref_logp.exp() * divergence.f(logp - ref_logp)).sum(-1))[0]


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a scalar function of the logits, at these logits."""
    x = at.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(x), x)
    return result
