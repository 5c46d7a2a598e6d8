"""Computes the CPUs and GPUs that the actors need, and compares them with the cluster before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from align.config.schema import Recipe

KEYS = (("CPU", "cpus"), ("GPU", "gpus"))
LARGER = "or attach to a larger cluster with --address"


@dataclass(frozen=True)
class Need:
    """Equal actors of one role."""

    role: str
    count: int
    cpus: float
    gpus: float
    """GPUs of each actor."""


def needs(recipe: Recipe, there: float, learns: bool = True) -> list[Need]:
    """The actors of a recipe; without `learns`, only rollout and reward actors. `there`: GPUs of the cluster, free or not."""
    w = recipe.workers
    actors = [Need("learner", 1, w.cpus, _gpus(w.learner_gpus, recipe.model.device, there))] if learns else []
    if recipe.answers:
        actors.append(Need("rollout", w.rollout, w.cpus, _gpus(w.rollout_gpus, recipe.engine.device, there)))
    return actors if recipe.reward is None else [*actors, Need("reward", w.reward, w.cpus, w.reward_gpus)]


def _gpus(stated: float | None, device: str, there: float) -> float:
    if stated is not None:
        return stated
    return 1.0 if device.startswith("cuda") or (device == "auto" and there > 0) else 0.0


def remedy(wanted: Sequence[Need], there: Mapping[str, float]) -> str:
    """The remedy if these actors need more than `there`."""
    gpus, processes = int(there.get("GPU", 0.0)), sum(need.count for need in wanted if need.gpus)
    if too_busy([replace(need, cpus=0.0) for need in wanted], there) is None:
        return f"lower workers.rollout, workers.reward or workers.cpus, {LARGER}"
    # The same share for each process on a GPU, rounded down to two decimals so that the shares of a GPU add up to at most 1.
    share = int(100 / -(-processes // gpus)) / 100 if gpus else 0.0
    keys = " and ".join(f"workers.{need.role}_gpus" for need in wanted if need.gpus)
    shared = f"to {share:g} to share GPUs or " if share else ""
    fewer = "lower workers.rollout; or " if any(need.role == "rollout" and need.gpus and need.count > 1 for need in wanted) else ""
    return f"{fewer}set {keys}, {shared}to 0 for the CPU (as model.device: cpu does); {LARGER}"


def too_large(wanted: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Why these actors would not fit into the cluster even if it were idle, or None. `nodes`: the resources of each node."""
    total = {key: sum(node.get(key, 0.0) for node in nodes) for key, _ in KEYS}
    reason = _short(wanted, total, "has")
    if reason is not None:
        return reason
    for need in wanted:
        if not any(all(node.get(key, 0.0) >= getattr(need, name) for key, name in KEYS) for node in nodes):
            both = f"{_counted(need.cpus, 'CPU')} and {_counted(need.gpus, 'GPU')}"
            return f"a {need.role} actor wants {both} on one node, and no node has both"
    return None


def too_busy(wanted: Sequence[Need], free: Mapping[str, float]) -> str | None:
    """Why these actors do not fit into the cluster at the moment, or None. `free`: unused resources, over all nodes."""
    return _short(wanted, free, "has free")


def _short(wanted: Sequence[Need], there: Mapping[str, float], verb: str) -> str | None:
    for key, name in KEYS:
        # Ray counts in ten-thousandths; smaller differences are rounding errors.
        total = round(sum(n.count * getattr(n, name) for n in wanted), 4)
        if total > round(there.get(key, 0.0), 4):
            by_role = ", ".join(f"{n.role} {n.count} x {getattr(n, name):g}" for n in wanted if getattr(n, name))
            return f"wanted {_counted(total, key)} ({by_role}), the cluster {verb} {there.get(key, 0.0):g}"
    return None


def _counted(count: float, unit: str) -> str:
    return f"{count:g} {unit}" + ("" if count == 1 else "s")
