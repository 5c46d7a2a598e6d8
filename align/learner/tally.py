"""Statistics of a step, added up as tensors and read once at its end: no synchronisation inside a micro-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from align.divergences.reverse_kl import ReverseKl
from align.regularizers import Penalty, Regularizer
from align.types import Stat, TokenBatch, TokenContext


def reference_place(name: str, batch: TokenBatch) -> str:
    """Where the KL to a regularizer's reference is counted: the first of the batch is `ref`, each other is known by its own name."""
    return "kl/ref" if name == next(iter(batch.references)) else f"kl/{name}"


class Tally:
    """Sums and counts by metric name."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._by_prompt: dict[str, list[tuple[Tensor, tuple[str, ...]]]] = {}

    def add(self, name: str, total: Tensor | float, count: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + torch.as_tensor(total).detach()
        self._counts[name] = self._counts.get(name, 0.0) + count

    def add_by_prompt(self, name: str, by_sequence: Tensor, prompt_ids: tuple[str, ...]) -> None:
        """What `add` was told of these sequences, [s], for `Stat.by_prompt`."""
        self._by_prompt.setdefault(name, []).append((by_sequence.detach(), prompt_ids))

    def add_sum(self, name: str, part: Tensor) -> None:
        """A part of one number (a loss, over the micro-batches of one update)."""
        self._sums[name] = self._sums.get(name, 0.0) + part.detach()
        self._counts[name] = 1.0

    def merge(self, other: Tally) -> None:
        for name, total in other._sums.items():
            self.add(name, total, other._counts[name])
        for name, parts in other._by_prompt.items():
            self._by_prompt.setdefault(name, []).extend(parts)

    def add_references(self, regularizer: Regularizer, name: str, ctx: TokenContext, penalty: Penalty) -> None:
        """The KL to the reference by its estimators, whatever is optimised: `kl/ref/k1`, `k3`, and `exact` where it is at hand."""
        score = ctx.batch.references.get(name)
        if score is None:
            return
        log_u = ctx.logp.detach() - score.logp
        place = reference_place(name, ctx.batch)
        self.add(f"{place}/k1", log_u.sum(), len(log_u))
        self.add(f"{place}/k3", (torch.expm1(-log_u) + log_u).sum(), len(log_u))
        if name in ctx.exact and isinstance(regularizer.divergence, ReverseKl) and not regularizer.merges:
            self.add(f"{place}/exact", ctx.exact[name].detach().sum(), len(log_u))

    def add_engine_gap(self, ctx: TokenContext) -> None:
        """KL(mu||pi_old) by k3 on the engine's own tokens, and the mean gap a limit can be set on."""
        if ctx.batch.sampler_logp is None:
            return
        gap = ctx.old_logp - ctx.batch.sampler_logp
        self.add("kl/engine", (torch.expm1(gap) - gap).sum(), len(gap))
        self.add("engine/gap", gap.abs().sum(), len(gap))

    def stats(self) -> dict[str, Stat]:
        return {name: Stat(sum=float(total), count=self._counts[name], by_prompt=self._prompts(name)) for name, total in self._sums.items()}

    def _prompts(self, name: str) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        for by_sequence, prompt_ids in self._by_prompt.get(name, []):
            for prompt, value in zip(prompt_ids, by_sequence.tolist(), strict=True):
                found[prompt] = found.get(prompt, Stat(sum=0.0, count=0)) + Stat(sum=value, count=1)
        return found
