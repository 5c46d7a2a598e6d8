"""What holds for every split or order of a batch, for beta and weights, and for sums over segments."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from helpers.built import algorithm, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from property.divergences import QUICK, normal
from torch import Tensor

from align.coefficients.constant import Constant
from align.contexts import TokenContext
from align.core.logprobs import Compared, Head, token_stats
from align.core.segments import prefix_sum, segment_sum, suffix_sum
from align.divergences.jensen_shannon import JensenShannon
from align.estimators.exact import Exact
from align.estimators.sampled import Sampled
from align.regularizers.composed import Composed
from align.types import RewardPenalty, TokenBatch
from align.weightings.uniform import Uniform


class World:
    """Sequences with everything a batch can carry, and a linear policy on fixed hidden states: [sum of lengths] tokens in all."""

    width, vocabulary = 3, 6

    def __init__(self, lengths: list[int], seed: int):
        self.lengths = lengths
        self.rows = torch.arange(sum(lengths)).split(lengths)
        total = sum(lengths)
        self.hidden, self.ref_hidden = normal(2, total, self.width, seed=seed)
        self.weight, self.ref_weight = normal(2, self.vocabulary, self.width, seed=seed + 1)
        self.labels = torch.arange(total) * 5 % self.vocabulary
        self.sampler, self.drift, self.advantage, self.penalty_weight, self.entropy = normal(5, total, seed=seed + 2)
        self.reward = normal(len(lengths), seed=seed + 3)
        self.ref_logp = token_stats(self.ref_hidden, Head(self.ref_weight), self.labels).logp
        self.old_logp = token_stats(self.hidden, Head(self.weight), self.labels).logp + 0.1 * self.drift

    def batch(self, order: list[int], reduction: str) -> tuple[TokenBatch, Tensor]:
        """The batch with its sequences in this order, and the hidden states of its tokens."""
        lengths = torch.tensor([self.lengths[s] for s in order])
        at = torch.cat([self.rows[s] for s in order])
        seq_ids = torch.repeat_interleave(torch.arange(len(order)), lengths)
        positions = torch.cat([torch.arange(n) for n in lengths])
        # After prompts of 1 to 3 columns; in every other sequence one that is not trained stands before each token, and one at the end.
        apart = torch.tensor([1 + s % 2 for s in order])
        columns = torch.tensor([1 + s % 3 for s in order])[seq_ids] + apart[seq_ids] * positions
        totals = torch.tensor([1 + s % 3 for s in order]) + apart * lengths
        ids = torch.full((len(order), int(totals.max()) + 2), -1)
        ids[seq_ids, columns] = self.labels[at]
        loss_weights = weights(reduction, lengths, 9).double()[seq_ids]
        return TokenBatch(
            input_ids=ids,
            totals=totals,
            lengths=lengths,
            seq_ids=seq_ids,
            positions=positions,
            columns=columns,
            group_ids=torch.tensor([s // 2 for s in order]),
            prompt_ids=tuple(str(s // 2) for s in order),
            rewards=self.reward[order],
            reward_parts={"r": self.reward[order] / 2},
            labels=torch.tensor(order) % 2,
            score_baselines=self.reward[order] / 3,
            sampler_logp=self.sampler[at],
            teacher_logp=self.sampler[at] / 2,
            old_logp=self.old_logp[at],
            entropy=self.entropy[at],
            ref_logp={"r": self.ref_logp[at]},
            rows=tuple(order),
            versions=at % 3,
            advantages=self.advantage[at],
            loss_weights=loss_weights,
            own_weights=self.penalty_weight[at].abs() + 1,
            penalty_weights={"r": self.penalty_weight[at].abs()},
            betas={"r": 0.3},
            multipliers={"r": self.reward[order].abs()},
            contexts={"r": self.advantage[at].abs()},
            values=self.advantage[at] + 1,
            returns=self.advantage[at] - 1,
            step_rewards=self.advantage[at] + 2,
            reward_penalties={"r": RewardPenalty(discounted=self.advantage[at].abs(), direct=self.advantage[at] / 2)},
        ), self.hidden[at]

    def loss(self, batch: TokenBatch, hidden: Tensor, weight: Tensor, regularizer: Composed) -> Tensor:
        """The learner's sum: the policy term, and the penalty in the loss or taken from the advantages."""
        states = self.ref_hidden[torch.cat([self.rows[s] for s in batch.rows])]
        compared = {"r": Compared(regularizer.divergence, states, Head(self.ref_weight))}
        stats = token_stats(hidden, Head(weight), batch.tokens, compared=compared if regularizer.full_vocabulary else {})
        ctx = TokenContext(batch=batch, logp=stats.logp, entropy=stats.entropy, exact=stats.exact)
        penalty, beta, advantages = regularizer.penalty(ctx, "r"), batch.betas["r"], batch.advantages
        extra = torch.zeros(())
        if penalty.reward is None:
            extra = beta * penalty.loss
        else:
            advantages = advantages - beta * penalty.reward
        return (batch.loss_weights * (algorithm("grpo").loss(ctx, advantages)[0] + extra)).sum()

    def total(self, parts: list[tuple[TokenBatch, Tensor]], regularizer: Composed) -> tuple[Tensor, Tensor]:
        weight = self.weight.clone().requires_grad_()
        loss = sum(self.loss(batch, hidden, weight, regularizer) for batch, hidden in parts)
        return loss.detach(), torch.autograd.grad(loss, weight)[0]


FORMS = [
    (e, p, c)
    for e, p in (("sampled", "loss"), ("sampled", "reward"), ("exact", "loss"))
    for c in ("local", "summed", "sequence")
    if (e, c) != ("exact", "sequence")
]
all_forms = pytest.mark.parametrize(("estimator", "placement", "credit"), FORMS, ids=lambda word: word)
all_reductions = pytest.mark.parametrize("reduction", ["token", "sequence_mean", "constant"])
worlds = st.builds(World, st.lists(st.integers(1, 5), min_size=2, max_size=7), st.integers(0, 10**6))


def form(estimator: str, placement: str, credit: str) -> Composed:
    return Composed(
        divergence=JensenShannon(),
        estimator={"sampled": Sampled(), "exact": Exact()}[estimator],
        coefficient=Constant(0.3),
        weighting=Uniform(),
        reference=None,
        placement=placement,
        credit=credit,
    )


@all_forms
@all_reductions
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, data=st.data())
def test_micro_batches_change_nothing(estimator, placement, credit, reduction, world, data):
    """Any split of the batch by `select`: the sum of losses and of gradients is that of the whole."""
    count = len(world.lengths)
    piece = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    batch, hidden = world.batch(list(range(count)), reduction)
    parts = [(batch.select(torch.nonzero(piece == p)[:, 0]), hidden[piece[batch.seq_ids] == p]) for p in piece.unique()]
    regularizer = form(estimator, placement, credit)
    for found, expected in zip(world.total(parts, regularizer), world.total([(batch, hidden)], regularizer), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@all_forms
@all_reductions
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, order=st.randoms(use_true_random=False))
def test_the_order_of_packing_changes_nothing(estimator, placement, credit, reduction, world, order):
    shuffled = list(range(len(world.lengths)))
    order.shuffle(shuffled)
    regularizer = form(estimator, placement, credit)
    totals = [world.total([world.batch(o, reduction)], regularizer) for o in (shuffled, sorted(shuffled))]
    for found, expected in zip(*totals, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@QUICK
@given(world=worlds, data=st.data())
def test_select_takes_every_field_along(world, data):
    """Each field of a selection is that of the sequences packed alone; only columns nobody needs are cut."""
    count = len(world.lengths)
    chosen = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    whole, _ = world.batch(list(range(count)), "token")
    alone, _ = world.batch(chosen, "token")
    selected = whole.select(torch.tensor(chosen))
    width = int(alone.totals.max())
    alone = replace(alone, input_ids=alone.input_ids[:, :width], loss_weights=whole.loss_weights[: len(alone.seq_ids)])
    for field in fields(TokenBatch):
        found, expected = getattr(selected, field.name), getattr(alone, field.name)
        if field.name == "reward_penalties":
            assert torch.equal(found["r"].discounted, expected["r"].discounted) and torch.equal(found["r"].direct, expected["r"].direct)
        elif field.name in ("ref_logp", "penalty_weights", "multipliers", "contexts", "reward_parts"):
            assert torch.equal(found["r"], expected["r"])
        elif field.name in ("betas", "rows", "prompt_ids", "step", "shaped", "examples", "algorithm_state"):
            assert found == expected
        else:
            assert torch.equal(found, expected), field.name


def test_a_batch_moves_whole():
    """Every tensor of it, on a device that holds no numbers; what is none stays."""
    whole, _ = World([2, 1], 0).batch([0, 1], "token")
    moved = whole.to(torch.device("meta"))
    tensors = [getattr(moved, f.name) for f in fields(TokenBatch)]
    tensors += [
        *moved.penalty_weights.values(),
        *moved.reward_parts.values(),
        *moved.multipliers.values(),
        *moved.contexts.values(),
        moved.ref_logp["r"],
        moved.reward_penalties["r"].discounted,
        moved.reward_penalties["r"].direct,
    ]
    tensors = [t for t in tensors if isinstance(t, Tensor)]
    assert len(tensors) == 28 and all(t.device.type == "meta" for t in tensors)
    assert moved.betas == whole.betas and whole.to(torch.device("cpu")) is whole


@all_forms
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, beta=st.floats(0, 5))
def test_linear_in_beta(estimator, placement, credit, world, beta):
    """loss(beta) - loss(0) = beta (loss(1) - loss(0)), gradients alike; in the reward as long as no clip binds."""
    batch, hidden = world.batch(list(range(len(world.lengths))), "token")
    batch = replace(batch, old_logp=None)
    regularizer = form(estimator, placement, credit)
    totals = [world.total([(replace(batch, betas={"r": b}), hidden)], regularizer) for b in (0.0, 1.0, beta)]
    for zero, one, scaled in zip(*totals, strict=True):
        torch.testing.assert_close(scaled - zero, beta * (one - zero), rtol=1e-10, atol=1e-11)


@all_forms
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(world=worlds, scale=st.floats(0, 5))
def test_linear_in_the_weighting(estimator, placement, credit, world, scale):
    batch, hidden = world.batch(list(range(len(world.lengths))), "token")
    batch = replace(batch, old_logp=None)
    weights, regularizer = batch.penalty_weights["r"], form(estimator, placement, credit)
    totals = [world.total([(replace(batch, penalty_weights={"r": s * weights}), hidden)], regularizer) for s in (0.0, 1.0, scale)]
    for zero, one, scaled in zip(*totals, strict=True):
        torch.testing.assert_close(scaled - zero, scale * (one - zero), rtol=1e-10, atol=1e-11)


@QUICK
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_segment_sums(lengths, seed):
    """Against plain loops, with an outlier that must not take the digits of its neighbours (float32)."""
    seq_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    x = normal(sum(lengths), seed=seed).float().abs() + 0.1
    x[seed % len(x)] = 3e7
    rows = x.split(lengths)
    later = torch.cat([torch.stack([r[i + 1 :].double().sum() for i in range(len(r))]) for r in rows])
    so_far = torch.cat([torch.stack([r[: i + 1].double().sum() for i in range(len(r))]) for r in rows])
    torch.testing.assert_close(suffix_sum(x, seq_ids, positions).double(), later, rtol=1e-6, atol=0)
    torch.testing.assert_close(prefix_sum(x, seq_ids, positions).double(), so_far, rtol=1e-6, atol=0)
    totals = torch.stack([r.double().sum() for r in rows])
    torch.testing.assert_close(segment_sum(x, seq_ids, len(lengths)).double(), totals, rtol=1e-6, atol=0)
