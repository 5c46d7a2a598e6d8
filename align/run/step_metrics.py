"""Metrics of a batch that the loop computes itself."""

from __future__ import annotations

from align.core.segments import segment_sum
from align.types import Rewards, TokenBatch


def beta_metrics(batch: TokenBatch) -> dict[str, float]:
    """The coefficients of the batch; for coefficients per sequence, their mean and maximum."""
    metrics = {f"beta/{name}": beta for name, beta in batch.betas.items()}
    for name, multipliers in batch.multipliers.items():
        own = batch.betas[name] * multipliers
        metrics |= {f"beta/{name}": own.mean().item(), f"beta/{name}/largest": own.max().item()}
    return metrics


def staleness_metrics(batch: TokenBatch, version: int) -> dict[str, float]:
    """Mean number of steps between the weights that sampled a sequence and the learner's `version`; a sequence counts the mean of its
    tokens."""
    if batch.versions is None:
        return {}
    drawn = segment_sum(batch.versions.double(), batch.seq_ids, len(batch.lengths)) / batch.lengths
    return {"rollout/staleness": version - drawn.mean().item()}


def reward_metrics(batch: TokenBatch, rewards: Rewards | None) -> dict[str, float]:
    """Mean and spread of the rewards, the mean of each named part, and how many failed; empty without rewards."""
    values = batch.rewards
    if rewards is None or values is None:
        return {}
    metrics = {"reward/mean": values.mean().item(), "reward/std": values.std(correction=0).item(), "reward/failed": float(rewards.failed)}
    return metrics | {f"reward/{name}": float(part[part == part].mean()) for name, part in rewards.parts.items()}
