"""The loss of one micro-batch: the algorithm's loss, each regularizer at its placement, and the metrics of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from align.config.returned import LOSS, TOKEN, Returned
from align.config.schema import Recipe
from align.contexts import Link, RewardModelContext, TokenContext
from align.core.segments import segment_sum
from align.learner.metric_accumulator import MetricAccumulator, reference_place
from align.loss_weightings import LossWeighting
from align.references import OF_ALGORITHM, of_recipe
from align.regularizers import Penalty, Regularizer
from align.types import TokenBatch


def total(recipe: Recipe, ctx: TokenContext | RewardModelContext, losses: MetricAccumulator, tally: MetricAccumulator) -> Tensor:
    """The scalar to minimise: sum_t loss_weights_t * loss_t. Adds its parts to `losses` and statistics to `tally`."""
    if isinstance(ctx, RewardModelContext):
        return _of_algorithm(recipe, ctx, None, losses, tally)
    ctx, advantages, penalties = _regularized(recipe, ctx, losses, tally)
    return penalties + _of_algorithm(recipe, ctx, advantages, losses, tally)


@torch.no_grad()
def example_losses(recipe: Recipe, ctx: TokenContext | RewardModelContext) -> Tensor:
    """The loss of each sequence of a micro-batch, [s], as a loss weighting reads it: their mean over the update is the algorithm's loss."""
    unused, advantages = MetricAccumulator(), None
    if isinstance(ctx, TokenContext):
        ctx, advantages, _ = _regularized(recipe, ctx, unused, unused)
    return _by_example(ctx.batch, _losses(recipe, ctx, advantages)[0])


def _regularized(
    recipe: Recipe, ctx: TokenContext, losses: MetricAccumulator, tally: MetricAccumulator
) -> tuple[TokenContext, Tensor | None, Tensor]:
    """The context with its link, the advantages less the penalties in the reward, and the sum of the penalties in the loss."""
    batch, advantages, weights = ctx.batch, ctx.batch.advantages, _weights(ctx.batch)
    ctx = replace(ctx, surrogate_log_ratio=recipe.algorithm.effective_log_ratio(ctx))
    compared = list(of_recipe(recipe))
    penalties = torch.zeros((), device=ctx.logp.device)
    for name, regularizer in recipe.regularizers.items():
        beta = batch.betas[name]
        # With a coefficient of 0 the penalty is only measured: 0 times an overflowing gradient would be NaN.
        with torch.set_grad_enabled(torch.is_grad_enabled() and beta > 0):
            penalty = checked_penalty(regularizer, ctx, name)
        multiplier = batch.multipliers[name][batch.seq_ids] if name in batch.multipliers else 1.0
        if penalty.link is not None:
            assert penalty.log_ratio is not None  # or `checked_penalty` had refused it
            of_answer = batch.multipliers.get(name, torch.ones(len(batch.lengths), device=batch.lengths.device))
            ctx = replace(ctx, link=Link(scores=penalty.link, log_ratio=penalty.log_ratio, beta=beta * of_answer))
        elif beta > 0 and penalty.loss is not None:
            penalties = penalties + beta * (weights * multiplier * penalty.loss).sum()
        elif beta > 0 and name not in batch.reward_penalties:
            assert advantages is not None and penalty.reward is not None  # this placement is refused beside a loss without advantages
            advantages = advantages - beta * multiplier * penalty.reward
        if penalty.link is None:
            losses.add_sum(f"loss/reg/{name}", beta * (weights * multiplier * penalty.value).sum())
        tally.add(f"divergence/{name}", penalty.value.sum(), len(batch.lengths))
        for share, hit in penalty.shares.items():
            tally.add(f"{share}/{name}", hit.sum(), len(hit))
        if name in batch.multipliers:
            tally.add_by_prompt(f"divergence/{name}", segment_sum(penalty.value, batch.seq_ids, len(batch.lengths)), batch.prompt_ids)
        if name in compared:
            is_kl = name in ctx.exact and regularizer.divergence.is_reverse_kl and not regularizer.merges
            tally.add_references(name, ctx, reference_place(name, compared), ctx.exact[name] if is_kl else None)
    if OF_ALGORITHM in compared:
        tally.add_references(OF_ALGORITHM, ctx, reference_place(OF_ALGORITHM, compared), None)
    tally.add("entropy", ctx.entropy.sum(), len(ctx.entropy))
    tally.add_engine_gap(ctx)
    return ctx, advantages, penalties


def _of_algorithm(
    recipe: Recipe, ctx: TokenContext | RewardModelContext, advantages: Tensor | None, losses: MetricAccumulator, tally: MetricAccumulator
) -> Tensor:
    batch, (per_token, statistics) = ctx.batch, _losses(recipe, ctx, advantages)
    weights = _weights(batch) if batch.own_weights is None else _weights(batch) * batch.own_weights
    loss = (weights * per_token).sum()
    losses.add_sum("loss/policy", loss)
    for key, value in statistics.items():
        tally.add(key, value.sum(), len(value))
    if recipe.algorithm.loss_weighting is not None:
        _measure_weighting(recipe.algorithm.loss_weighting, batch, per_token.detach(), tally)
    return loss


def _losses(recipe: Recipe, ctx: TokenContext | RewardModelContext, advantages: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The algorithm's loss of each token, [T], and its statistics."""
    returned, tokens = Returned(recipe.algorithm, "loss", "algorithm"), len(ctx.batch.seq_ids)
    found = recipe.algorithm.loss(ctx, advantages)
    per_token, statistics = returned.pair(found, f"a pair: the loss, float32 [{tokens}], and a dict of statistics")
    return returned.numbers(per_token, tokens, LOSS), returned.statistics(statistics, "one number for each token, answer or pair")


def _by_example(batch: TokenBatch, per_token: Tensor) -> Tensor:
    return batch.examples * segment_sum(_weights(batch) * per_token, batch.seq_ids, len(batch.lengths))


def _measure_weighting(weighting: LossWeighting, batch: TokenBatch, per_token: Tensor, tally: MetricAccumulator) -> None:
    of_example = _by_example(batch, per_token)
    tally.add("loss/example", of_example.sum(), len(of_example))
    if weighting.has_state:
        tally.add_by_prompt("loss/example", of_example, batch.prompt_ids)
    if batch.own_weights is not None:
        tally.add("loss_weighting/share", (batch.own_weights > 0).float().sum(), len(per_token))
        tally.add("loss_weighting/mean_square", batch.own_weights.square().sum(), len(per_token))


def _weights(batch: TokenBatch) -> Tensor:
    assert batch.loss_weights is not None  # the learner sets them before it splits a batch
    return batch.loss_weights


def checked_penalty(regularizer: Regularizer, ctx: TokenContext, name: str) -> Penalty:
    """The regularizer's penalty on a micro-batch. Raises RecipeError if its shapes are not those of the micro-batch."""
    returned, tokens, answers = Returned(regularizer, "penalty", f"regularizers.{name}"), len(ctx.logp), len(ctx.batch.lengths)
    penalty = regularizer.penalty(ctx, name)
    if not isinstance(penalty, Penalty):
        returned.refuse(f"{penalty!r:.60}", "an align.regularizers.Penalty")
    if penalty.loss is penalty.reward is penalty.link is None:
        returned.refuse("a Penalty of its value alone", "a Penalty with `loss`, `reward` or `link`")
    returned.numbers(penalty.value, tokens, f"{TOKEN}, as `value`", detached=True)
    if penalty.loss is not None:
        returned.numbers(penalty.loss, tokens, f"{LOSS}, as `loss`")
    if penalty.reward is not None:
        returned.numbers(penalty.reward, tokens, f"{TOKEN}, as `reward`", detached=True)
    if penalty.link is not None:
        returned.numbers(penalty.link, answers, "one for each answer, as `link`")
        if penalty.log_ratio is None:
            returned.refuse("a Penalty with `link` and no `log_ratio`", "a Penalty with both")
        returned.numbers(penalty.log_ratio, answers, "one for each answer, as `log_ratio`", detached=True)
    returned.statistics(penalty.shares, "one flag for each token or answer, as `shares`")
    return penalty
