"""Computes the values that need the whole batch, before it is split: advantages, and each regularizer's weight on each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from align.coefficients import State
from align.config.returned import ANSWER, TOKEN, Returned
from align.config.schema import Recipe
from align.contexts import TokenContext
from align.regularizers import Regularizer
from align.run.state import initial_states, initial_weighting_state
from align.shapings import Shaping
from align.types import RewardPenalty, TokenBatch


def prepare_batch(
    recipe: Recipe, batch: TokenBatch, coefficients: Mapping[str, State] | None = None, loss_weighting: State | None = None
) -> TokenBatch:
    """The batch with advantages [T], the critic's targets, and the weights of the loss and of each active regularizer.

    Args: coefficients: coefficient states by regularizer; loss_weighting: the loss weighting's state. None: the initial ones.
    With a critic, penalties in the reward are computed before the advantages, so their weightings cannot read advantages.
    """
    rewards, metrics, algorithm, tokens = batch.rewards, {}, recipe.algorithm, len(batch.seq_ids)
    shown = {name: batch.only(s.needs, s, f"shapings.{name}") for name, s in recipe.shapings.items()}
    states = initial_states(recipe.regularizers) if coefficients is None else coefficients
    for name, shaping in recipe.shapings.items():
        assert rewards is not None  # a recipe without rewards has no shapings
        before, rewards = rewards, shaping.rewards(shown[name], rewards.clone())  # a copy that the shaping may write into
        Returned(shaping, "rewards", f"shapings.{name}").finite(rewards, len(batch.lengths), ANSWER)
        metrics |= _shaping_change(shaping, "rewards", f"shaping/{name}", before, rewards)
    penalties = recipe.regularizers
    judged = replace(batch, rewards=rewards)
    if algorithm.critic is not None:
        charged = {name: r for name, r in penalties.items() if r.placement == "reward"}
        judged = _with_weights(judged, charged, states)
        judged = replace(judged, reward_penalties={name: _scaled_penalty(judged, r, name) for name, r in charged.items()})
        returns = algorithm.targets(judged.only(algorithm.reads | {"rewards"}, algorithm, "algorithm"))
        judged = replace(judged, returns=Returned(algorithm, "targets", "algorithm").finite(returns, tokens, TOKEN))
        penalties = {name: r for name, r in penalties.items() if name not in charged}
    advantages = algorithm.advantages(judged.only(algorithm.reads, algorithm, "algorithm"))
    if advantages is not None:
        Returned(algorithm, "advantages", "algorithm").finite(advantages, tokens, TOKEN)
    for name, shaping in recipe.shapings.items():
        assert advantages is not None  # nor has one whose loss has no advantages
        before, advantages = advantages, shaping.advantages(shown[name], advantages.clone(), name)
        Returned(shaping, "advantages", f"shapings.{name}").finite(advantages, tokens, TOKEN)
        metrics |= _shaping_change(shaping, "advantages", f"shaping/{name}", before, advantages)
        own = Returned(shaping, "metrics", f"shapings.{name}").metrics(shaping.metrics(shown[name], name))
        metrics |= {f"shaping/{name}/{key}": value for key, value in own.items()}
    shaped = replace(judged, rewards=batch.rewards, advantages=advantages)
    measured = algorithm.measures(shaped.only(algorithm.reads | {"advantages"}, algorithm, "algorithm"))
    metrics |= Returned(algorithm, "measures", "algorithm").metrics(measured)
    done = _with_weights(replace(shaped, shaped=metrics, own_weights=_own_weights(recipe, shaped, loss_weighting)), penalties, states)
    return _compared(recipe, done) if algorithm.labels else done


def _compared(recipe: Recipe, batch: TokenBatch) -> TokenBatch:
    """The labelled answers alone, each with what its score is compared with."""
    name, regularizer = next((name, r) for name, r in recipe.regularizers.items() if r.placement == "link")
    assert batch.labels is not None and batch.old_logp is not None and batch.entropy is not None  # of labelled data, which need them
    exact = {name: torch.zeros_like(batch.old_logp)} if regularizer.full_vocabulary else {}
    scores = regularizer.penalty(TokenContext(batch=batch, logp=batch.old_logp, entropy=batch.entropy, exact=exact), name).link
    assert scores is not None  # of a link
    baselines = recipe.algorithm.score_baselines(batch, scores, name)
    Returned(recipe.algorithm, "score_baselines", "algorithm").finite(baselines, len(batch.lengths), ANSWER)
    return replace(batch, score_baselines=baselines).select((batch.labels >= 0).nonzero().squeeze(-1))


def _own_weights(recipe: Recipe, batch: TokenBatch, state: State | None) -> Tensor | None:
    """The weights [T] of the algorithm's own loss that can be computed before the update; None for 1."""
    weighting, where = recipe.algorithm.loss_weighting, "algorithm.loss_weighting"
    if weighting is None:
        return None
    state = initial_weighting_state(recipe.algorithm) if state is None else state
    weights = weighting.of_batch(batch.only(weighting.needs, weighting, where), state)
    return None if weights is None else Returned(weighting, "of_batch", where).not_negative(weights, len(batch.seq_ids), TOKEN)


def _with_weights(batch: TokenBatch, regularizers: dict[str, Regularizer], states: Mapping[str, State]) -> TokenBatch:
    """The batch with each regularizer's weighting [T], and its coefficient's multipliers [S] if it has any."""
    ones = torch.ones(len(batch.seq_ids))
    weights, by_answer = {}, {}
    for name, regularizer in regularizers.items():
        where, weighting, rule = f"regularizers.{name}", regularizer.weighting, regularizer.coefficient
        weights[name] = ones
        if weighting is not None:
            weights[name] = weighting.weights(batch.only(weighting.needs, weighting, f"{where}.weighting"), name)
            returned = Returned(weighting, "weights", f"{where}.weighting")
            (returned.finite if weighting.signed else returned.not_negative)(weights[name], len(ones), TOKEN)
        by_answer[name] = rule.multipliers(batch.only(rule.needs, rule, f"{where}.coefficient"), name, states[name])
    multipliers = {
        name: Returned(regularizers[name].coefficient, "multipliers", f"regularizers.{name}.coefficient").not_negative(
            values, len(batch.lengths), ANSWER
        )
        for name, values in by_answer.items()
        if values is not None
    }
    return replace(batch, penalty_weights={**batch.penalty_weights, **weights}, multipliers={**batch.multipliers, **multipliers})


def _scaled_penalty(batch: TokenBatch, regularizer: Regularizer, name: str) -> RewardPenalty:
    """The penalty that the regularizer subtracts from the token rewards, coefficient included."""
    returned, charge = Returned(regularizer, "reward_penalty", f"regularizers.{name}"), regularizer.reward_penalty(batch, name)
    if not isinstance(charge, RewardPenalty):
        returned.refuse(f"{charge!r:.60}", "an align.types.RewardPenalty")
    beta = torch.full((len(batch.seq_ids),), batch.betas[name])
    for numbers in (charge.discounted, charge.direct):
        returned.finite(numbers, len(batch.seq_ids), TOKEN)
    if name in batch.multipliers:
        beta = beta * batch.multipliers[name][batch.seq_ids]
    return RewardPenalty(discounted=beta * charge.discounted, direct=beta * charge.direct)


def _shaping_change(shaping: Shaping, what: str, place: str, before: Tensor, after: Tensor) -> dict[str, float]:
    """Mean change of the rewards [S] or advantages [T], and the share that changed; empty if the shaping does not change them."""
    if getattr(type(shaping), what) is getattr(Shaping, what):
        return {}
    return {f"{place}/{what}": (after - before).mean().item(), f"{place}/share/{what}": (after != before).float().mean().item()}
