"""Metrics of a step that the loop computes itself, from answers and rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from align.config.schema import Recipe
from align.core.segments import segment_sum
from align.types import Episode, Group, Rewards, TokenBatch


def answer_metrics(groups: Sequence[Group], sampled: bool) -> dict[str, float]:
    """Of all answers of a step, also those that are dropped: the longest in tokens; if they were sampled, how many, the share cut at the
    limit, and the distinct ones (by prompt, over all)."""
    episodes = [e for g in groups for e in g.episodes]
    metrics = {"response/longest": float(max((e.length for e in episodes), default=0))}
    if not sampled or not episodes:
        return metrics
    distinct = sum(len({e.trained_ids.tobytes() for e in g.episodes}) for g in groups)
    return metrics | {
        "answers": float(len(episodes)),
        "answers/distinct": distinct / len(episodes),
        "response/truncated": sum(not e.finished for e in episodes) / len(episodes),
        **turn_metrics(episodes),
    }


def turn_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Of episodes with an environment: assistant turns, tokens that it wrote, how often it failed, and the share of episodes that it would
    have continued."""
    played = [(e, e.played) for e in episodes if e.played is not None]
    if not played:
        return {}
    return {
        "turns/mean": sum(len(p.rewards) for _, p in played) / len(played),
        "turns/limited": sum(p.limited for _, p in played) / len(played),
        "environment/tokens": sum(len(e.response_ids) - e.length for e, _ in played) / len(played),
        "environment/failures": float(sum(p.failure is not None for _, p in played)),
    }


def reward_metrics(batch: TokenBatch | None, rewards: Rewards | None, by_group: bool) -> dict[str, float]:
    """Of the rewards that were not dropped. Args: batch: None if all were dropped; by_group: see `share_without_signal`."""
    if rewards is None:
        return {}
    failed = {"reward/failed": float(rewards.failed)}
    values = None if batch is None else batch.rewards
    if batch is None or values is None:
        return failed
    metrics = {
        "reward/mean": values.mean().item(),
        "reward/std": values.std(correction=0).item(),
        **failed,
        "groups/no_signal": share_without_signal(values, batch.group_ids if by_group else torch.zeros_like(batch.group_ids)),
    }
    return metrics | {f"reward/{name}": float(part[part == part].mean()) for name, part in rewards.parts.items()}


def share_without_signal(rewards: torch.Tensor, ids: torch.Tensor) -> float:
    """The share of groups in which all rewards are equal. Args: rewards: [S]; ids: [S], the group of each answer that is compared."""
    count = int(ids.max()) + 1
    lowest = torch.full((count,), torch.inf).scatter_reduce(0, ids, rewards.float(), "amin")
    highest = torch.full((count,), -torch.inf).scatter_reduce(0, ids, rewards.float(), "amax")
    present = lowest <= highest
    return (lowest == highest)[present].float().mean().item()


def beta_metrics(batch: TokenBatch) -> dict[str, float]:
    """The coefficients of the batch; for coefficients per sequence, their mean and maximum."""
    metrics = {f"beta/{name}": beta for name, beta in batch.betas.items()}
    for name, multipliers in batch.multipliers.items():
        own = batch.betas[name] * multipliers
        metrics |= {f"beta/{name}": own.mean().item(), f"beta/{name}/largest": own.max().item()}
    return metrics


def weighting_metrics(recipe: Recipe, batch: TokenBatch) -> dict[str, float]:
    """For each regularizer with a weighting: the share of tokens whose weight is not 0."""
    weighed = [name for name, r in recipe.regularizers.items() if r.weighting is not None and r.weighting.recipe_name != "uniform"]
    return {f"weighted/{name}": batch.penalty_weights[name].ne(0).float().mean().item() for name in weighed}


def staleness_metrics(batch: TokenBatch, version: int) -> dict[str, float]:
    """Mean number of steps between the weights that sampled a sequence and the learner's `version`; a sequence counts the mean of its
    tokens."""
    if batch.versions is None:
        return {}
    drawn = segment_sum(batch.versions.double(), batch.seq_ids, len(batch.lengths)) / batch.lengths
    return {"rollout/staleness": version - drawn.mean().item()}


def drawn_metrics(groups: Sequence[Group], rewards: Rewards, signal: Sequence[bool], keep: Sequence[bool], rounds: int) -> dict[str, float]:
    """Of everything that a step with `batch.refill` drew. `reward/mean` and `reward/std` are of it too: those of the batch alone would be
    of groups chosen by their rewards.

    Args: signal, keep: of each group, whether it has a signal and whether it is in the batch.
    """
    judged = rewards.values[~np.isnan(rewards.values)].astype(np.float64)
    a_round = len(groups) // rounds
    tokens = [sum(e.length for e in g.episodes) for g in groups]
    earned = {"reward/mean": judged.mean(), "reward/std": judged.std()} if len(judged) else {}
    return {name: float(value) for name, value in earned.items()} | {
        "groups/no_signal": 1 - sum(signal) / len(groups),
        "groups/kept": float(sum(keep)),
        "groups/refilled": float(sum(keep[a_round:])),
        "groups/surplus": float(sum(signal) - sum(keep)),
        "groups/rounds": float(rounds),
        "tokens/drawn": float(sum(tokens)),
        "tokens/thrown_away": float(sum(n for n, kept in zip(tokens, keep, strict=True) if not kept)),
    }
