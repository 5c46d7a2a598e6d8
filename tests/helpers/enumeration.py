"""Problems small enough to enumerate, in float64: every answer once in one TokenBatch, so that an expectation is an exact sum.

A tabular policy has logits [P, V], one row for each of the P prefixes an answer can have. The batch carries as `loss_weights`
the behaviour policy's probability of each answer: `(loss_weights * x).sum()` over its tokens is the expectation, over answers
the behaviour policy draws, of the sum of x over an answer.

The exact objectives are written from the definition `D_f(pi||ref) = sum ref f(pi/ref)`, with f of the ratio u itself, and
are differentiated by autograd; they share nothing with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from align.contexts import TokenContext
from align.core.logprobs import Compared, Head, every_token, token_stats
from align.divergences import Divergence
from align.types import TokenBatch

NAME = "kl"
"""The regularizer's entry in every batch made here."""


Outcomes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """All answers of up to `depth` tokens over a vocabulary; the token `end`, if there is one, stops an answer early."""

    vocabulary: int
    depth: int = 1
    end: int | None = None
    answers: list[tuple[int, ...]] = field(init=False)
    prefixes: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self):
        prefixes, answers = [()], []
        for prefix in prefixes:
            for token in range(self.vocabulary):
                answer = (*prefix, token)
                done = len(answer) == self.depth or token == self.end
                (answers if done else prefixes).append(answer)
        object.__setattr__(self, "answers", answers)
        object.__setattr__(self, "prefixes", prefixes)

    def random(self, seed: int, spread: float = 1.0) -> Tensor:
        """Logits [P, V] of a random policy."""
        generator = torch.Generator().manual_seed(seed)
        return spread * torch.randn(len(self.prefixes), self.vocabulary, generator=generator, dtype=torch.float64)

    def steps(self) -> list[tuple[int, int, int, int]]:
        """(answer, position, prefix, token) of every response token, packed."""
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        return [(s, t, row[a[:t]], token) for s, a in enumerate(self.answers) for t, token in enumerate(a)]

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`steps` by column, each [T]."""
        seq_ids, positions, prefix, tokens = torch.tensor(self.steps()).unbind(1)
        return seq_ids, positions, prefix, tokens

    def token_logp(self, logits: Tensor) -> Tensor:
        """log pi of every packed token, [T]."""
        _, _, prefix, token = self._packed
        return torch.log_softmax(logits, -1)[prefix, token]

    def answer_logp(self, logits: Tensor) -> Tensor:
        """log pi of every answer, [S]."""
        seq_ids = self._packed[0]
        return torch.zeros(len(self.answers), dtype=logits.dtype).index_add(0, seq_ids, self.token_logp(logits))

    def reach(self, logits: Tensor) -> Tensor:
        """The probability of each prefix, [P], differentiable."""
        table, reached = torch.softmax(logits, -1), [torch.ones((), dtype=logits.dtype)]
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        for prefix in self.prefixes[1:]:
            reached.append(reached[row[prefix[:-1]]] * table[row[prefix[:-1]], prefix[-1]])
        return torch.stack(reached)

    def context(
        self,
        logits: Tensor,
        old: Tensor | None,
        ref: Tensor,
        divergence: Divergence | None = None,
        *,
        sampler: Tensor | None = None,
        outcomes: Outcomes = every_token,
    ) -> TokenContext:
        """The learner's view of the whole enumeration; `old` None means on-policy. `divergence`, over `outcomes`, fills `ctx.exact`.

        The engine draws from pi_old, or from `sampler` where one is given. Prompts differ in length, and every column after an answer
        holds an id outside the vocabulary: nobody may look at it.
        """
        seq_ids, positions, prefix, tokens = self._packed
        count = len(self.answers)
        lengths = torch.bincount(seq_ids, minlength=count)
        prompt_lengths = 1 + torch.arange(count) % 3
        input_ids = torch.full((count, self.depth + 4), -(10**6))
        columns = prompt_lengths[seq_ids] + positions
        input_ids[seq_ids, columns] = tokens
        behaviour = next(policy for policy in (sampler, old, logits.detach()) if policy is not None)
        states = torch.eye(len(self.prefixes), dtype=torch.float64)[prefix]
        batch = TokenBatch(
            input_ids=input_ids,
            totals=prompt_lengths + lengths,
            lengths=lengths,
            seq_ids=seq_ids,
            positions=positions,
            columns=columns,
            group_ids=torch.zeros(count, dtype=torch.int64),
            old_logp=None if old is None else self.token_logp(old),
            sampler_logp=None if sampler is None else self.token_logp(sampler),
            ref_logp={NAME: self.token_logp(ref)},
            loss_weights=self.answer_logp(behaviour).exp()[seq_ids],
            penalty_weights={NAME: torch.ones(len(seq_ids), dtype=torch.float64)},
        )
        compared = {} if divergence is None else {NAME: Compared(divergence, states, Head(ref.T), outcomes)}
        stats = token_stats(states, Head(logits.T), batch.tokens, compared=compared)
        return TokenContext(batch=batch, logp=stats.logp, entropy=stats.entropy, exact=stats.exact)


Generator = Callable[[Tensor], Tensor]
"""f of the ratio u = pi/ref."""


@runtime_checkable
class OfMean(Protocol):
    """A generator whose divergence is a function of E_ref[f(u)]."""

    def of_mean(self, mean: Tensor) -> Tensor: ...


def state_divergence(f: Generator, logits: Tensor, ref: Tensor, k: int | None = None) -> Tensor:
    """D_f(pi||ref) at each prefix, [P]: E_ref[f(u)], or the function `f.of_mean` of it.

    With `k`, all tokens but the k of the largest ref count as one.
    """
    pi, base = torch.softmax(logits, -1), torch.softmax(ref, -1)
    if k is not None:
        order = base.argsort(-1, descending=True)
        pi, base = (torch.cat([p.gather(-1, order)[:, :k], p.gather(-1, order)[:, k:].sum(-1, keepdim=True)], -1) for p in (pi, base))
    mean = (base * f(pi / base)).sum(-1)
    return f.of_mean(mean) if isinstance(f, OfMean) else mean


def local_objective(f: Generator, problem: Problem, logits: Tensor, behaviour: Tensor, ref: Tensor, k: int | None = None) -> Tensor:
    """E over the behaviour's prefixes of sum_t D_t: the states are taken as given."""
    return (problem.reach(behaviour).detach() * state_divergence(f, logits, ref, k)).sum()


def summed_objective(f: Generator, problem: Problem, logits: Tensor, ref: Tensor, k: int | None = None) -> Tensor:
    """E over the policy's own answers of sum_t D_t."""
    return (problem.reach(logits) * state_divergence(f, logits, ref, k)).sum()


def sequence_objective(f: Generator, problem: Problem, logits: Tensor, ref: Tensor) -> Tensor:
    """D_f(pi(y)||ref(y)) over whole answers."""
    pi, base = problem.answer_logp(logits).exp(), problem.answer_logp(ref).exp()
    return (base * f(pi / base)).sum()


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Of a scalar function of the logits, at these logits: [P, V]."""
    x = at.clone().requires_grad_()
    (result,) = torch.autograd.grad(objective(x), x)
    return result
