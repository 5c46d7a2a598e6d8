"""The three passes one after the other, as a caller makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from align_kernels import triton_rows
from align_kernels.codegen import Fused
from align_kernels.row import RowStats
from align_kernels.triton_rows import launch


def small_tiles(monkeypatch) -> None:
    """Tiles of 64, so that rows of 139 take two turns of the main loop and the masked rest."""
    for size in (2, 4, 8):
        monkeypatch.setitem(launch.STATS, size, {"K": 2, "B": 32, "num_warps": 4})
        monkeypatch.setitem(launch.SUM, size, {"B": 64, "num_warps": 4})
        monkeypatch.setitem(launch.ONE_PASS, size, {"K": 2, "B": 32, "num_warps": 4})


def passes(
    z: Tensor,
    u: Tensor,
    labels: Tensor,
    fn: Fused,
    weights: Tensor,
    scale: float = 1.0,
    cap: float | None = None,
    first: int = 0,
    out: Tensor | None = None,
    merged: RowStats | None = None,
    sums: tuple[Tensor, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """By name the statistics [T], and the gradient of their `weights` [3, T] sum in z. `merged`, `sums`: those of all shards."""
    common = {"scale": scale, "ref_scale": scale, "softcap": cap, "ref_softcap": cap}
    stats = merged or triton_rows.row_stats(z, u, labels, first=first, **common)
    mean, S = sums or triton_rows.row_sum(z, u, stats.lse_p, stats.lse_q, fn=fn, **common)
    div, slope = fn.transform(mean) if fn.transform else (mean, torch.ones_like(mean))
    grad = triton_rows.row_grad(
        z,
        u,
        stats.lse_p,
        stats.lse_q,
        labels,
        stats.entropy,
        S,
        weights[0],
        weights[1],
        weights[2] * slope,
        fn=fn,
        first=first,
        out=out,
        **common,
    )
    return {"logp": stats.logp, "entropy": stats.entropy, "div": div}, grad


def row_errors(found: Tensor, exact: Tensor) -> Tensor:
    """Of each row of [T, ...] the largest error, relative to the row's largest value."""
    found, exact = (t.double().reshape(len(t), -1) for t in (found, exact))
    return (found - exact).abs().amax(1) / exact.abs().amax(1)


def error(found: Tensor, exact: Tensor) -> float:
    """Largest error, relative to the largest value."""
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()
