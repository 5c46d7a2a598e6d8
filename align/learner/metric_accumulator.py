"""Statistics of a step, summed as tensors and read once at the end of the step: no synchronisation inside a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.contexts import TokenContext
from align.types import Stat


def reference_place(name: str, referenced: Sequence[str]) -> str:
    """Metric prefix of the KL to a regularizer's reference: `kl/ref` for the first regularizer, `kl/NAME` for the others.

    `referenced`: the active regularizers that have a reference.
    """
    return "kl/ref" if name == referenced[0] else f"kl/{name}"


class MetricAccumulator:
    """Sums and counts by metric name."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._by_prompt: dict[str, list[tuple[Tensor, tuple[str, ...]]]] = {}

    def add(self, name: str, total: Tensor | float, count: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + torch.as_tensor(total).detach()
        self._counts[name] = self._counts.get(name, 0.0) + count

    def add_by_prompt(self, name: str, by_sequence: Tensor, prompt_ids: tuple[str, ...]) -> None:
        """Per-sequence totals [s] of a metric given to `add`, for `Stat.by_prompt`."""
        self._by_prompt.setdefault(name, []).append((by_sequence.detach(), prompt_ids))

    def add_sum(self, name: str, part: Tensor) -> None:
        """One summand of a number, for example a micro-batch's part of the loss of an update."""
        self._sums[name] = self._sums.get(name, 0.0) + part.detach()
        self._counts[name] = 1.0

    def merge(self, other: MetricAccumulator) -> None:
        for name, total in other._sums.items():
            self.add(name, total, other._counts[name])
        for name, parts in other._by_prompt.items():
            self._by_prompt.setdefault(name, []).extend(parts)

    def add_references(self, name: str, ctx: TokenContext, place: str, exact: Tensor | None) -> None:
        """The KL to the reference by its estimators, whatever is optimised: `kl/ref/k1`, `k3`, and `exact` (float32 [T]) where known."""
        log_u = ctx.logp.detach() - ctx.batch.ref_logp[name]
        self.add(f"{place}/k1", log_u.sum(), len(log_u))
        self.add(f"{place}/k3", (torch.expm1(-log_u) + log_u).sum(), len(log_u))
        if exact is not None:
            self.add(f"{place}/exact", exact.detach().sum(), len(log_u))

    def add_engine_gap(self, ctx: TokenContext) -> None:
        """KL(mu||pi_old) by k3 on the engine's own tokens, and the mean log-prob gap that `max_engine_gap` limits."""
        if ctx.batch.sampler_logp is None:
            return
        gap = ctx.old_logp - ctx.batch.sampler_logp
        self.add("kl/engine", (torch.expm1(gap) - gap).sum(), len(gap))
        self.add("engine/gap", gap.abs().sum(), len(gap))

    def stats(self) -> dict[str, Stat]:
        return {
            name: Stat(sum=total, count=self._counts[name], by_prompt=self._prompts(name))
            for name, total in zip(self._sums, _read(list(self._sums.values())), strict=True)
        }

    def _prompts(self, name: str) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        for by_sequence, prompt_ids in self._by_prompt.get(name, []):
            for prompt, value in zip(prompt_ids, by_sequence.tolist(), strict=True):
                found[prompt] = found.get(prompt, Stat(sum=0.0, count=0)) + Stat(sum=value, count=1)
        return found


def _read(numbers: list[Tensor]) -> list[float]:
    """Reads all numbers with one copy from each device: reading them one by one would wait for the GPU each time."""
    found: dict[int, float] = {}
    for device in {n.device for n in numbers}:
        here = [i for i, n in enumerate(numbers) if n.device == device]
        found |= zip(here, torch.stack([numbers[i].double() for i in here]).tolist(), strict=True)
    return [found[i] for i in range(len(numbers))]
