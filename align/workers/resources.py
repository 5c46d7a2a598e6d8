"""What a recipe wants of a cluster against what there is, told before anything waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align.recipe import Recipe

KEYS = (("CPU", "cpus"), ("GPU", "gpus"))


@dataclass(frozen=True)
class Need:
    """Equal actors of one role."""

    role: str
    count: int
    cpus: float
    gpus: float
    """Of each actor."""


def needs(recipe: Recipe, learns: bool = True) -> list[Need]:
    """The actors of a recipe; without `learns` those that only generate and score."""
    w = recipe.workers
    actors = [Need("learner", 1, w.cpus, w.gpus)] if learns else []
    if recipe.answers:
        actors.append(Need("rollout", w.rollout, w.cpus, w.gpus))
    return actors if recipe.reward is None else [*actors, Need("reward", w.reward, w.cpus, w.reward_gpus)]


def too_large(wanted: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Why the cluster could never hold these actors even if it were idle, or None. `nodes`: the resources of each node."""
    total = {key: sum(node.get(key, 0.0) for node in nodes) for key, _ in KEYS}
    reason = _short(wanted, total, "has")
    if reason is not None:
        return reason
    for need in wanted:
        if not any(all(node.get(key, 0.0) >= getattr(need, name) for key, name in KEYS) for node in nodes):
            return f"a {need.role} actor wants {need.cpus:g} CPUs and {need.gpus:g} GPUs on one node, and no node has both"
    return None


def too_busy(wanted: Sequence[Need], free: Mapping[str, float]) -> str | None:
    """Why the cluster cannot hold these actors now, or None. `free`: what other jobs left, over all nodes."""
    return _short(wanted, free, "has free")


def _short(wanted: Sequence[Need], there: Mapping[str, float], verb: str) -> str | None:
    for key, name in KEYS:
        # Ray counts in ten-thousandths; anything closer is rounding.
        total = round(sum(n.count * getattr(n, name) for n in wanted), 4)
        if total > round(there.get(key, 0.0), 4):
            by_role = ", ".join(f"{n.role} {n.count} x {getattr(n, name):g}" for n in wanted if getattr(n, name))
            return f"wanted {total:g} {key}s ({by_role}), the cluster {verb} {there.get(key, 0.0):g}"
    return None
