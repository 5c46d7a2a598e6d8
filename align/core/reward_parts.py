"""Several rewards of the same answers as one tensor, and the weights of the worst case."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def standardised(parts: Float[Tensor, "S K"], group_ids: Int64[Tensor, "S"], eps: float) -> Float[Tensor, "S K"]:
    """(r - mean)/(std + eps) of each part over its group, std unbiased; 0 where an answer has no such part (NaN)."""
    known, count = ~parts.isnan(), int(group_ids.max()) + 1
    values = parts.nan_to_num(0.0).double()  # in float64 the mean of equal float32 values is that value, and they are centred to exactly 0
    n = _by_group(known.double(), group_ids, count)
    centred = torch.where(known, values - (_by_group(values, group_ids, count) / n.clamp_min(1))[group_ids], 0.0)
    variance = _by_group(centred.square(), group_ids, count) / (n - 1).clamp_min(1)
    return (centred / (variance.sqrt()[group_ids] + eps)).to(parts.dtype)


def worst_case_weights(
    values: Float[Tensor, "G n K"], known: Bool[Tensor, "G n"], strength: float, steps: int = 500
) -> Float[Tensor, "G K"]:
    """w on the simplex that minimises log mean_i exp(strength w . V_i) over the known answers i of each group, in float64.

    The objective is convex with a Hessian of at most strength^2 max_i |V_i - mean|^2: accelerated projected gradients with that step.
    """
    counted = known | ~known.any(1, keepdim=True)  # a group without a known answer has some weights, which no reward takes
    v, share = values.double(), torch.where(counted, 0.0, -torch.inf).double()
    n = known.sum(1).clamp_min(1)[:, None, None]
    v = torch.where(known[..., None], v, 0.0)
    spread = torch.where(known[..., None], v - v.sum(1, keepdim=True) / n, 0.0).square().sum(-1).amax(1)
    step = 1 / (strength**2 * spread).clamp_min(1e-12)
    w = torch.full((len(v), v.shape[-1]), 1 / v.shape[-1], dtype=torch.float64)
    ahead, momentum = w, 1.0
    for _ in range(steps):
        tilted = torch.softmax(strength * torch.einsum("gnk,gk->gn", v, ahead) + share, 1)
        following = on_simplex(ahead - step[:, None] * strength * torch.einsum("gn,gnk->gk", tilted, v))
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, w, momentum = following + (momentum - 1) / grown * (following - w), following, grown
    return w


def by_group(values: Float[Tensor, "S K"], group_ids: Int64[Tensor, "S"]) -> tuple[Float[Tensor, "G n K"], Int64[Tensor, "S"]]:
    """The rows of each group, 0 after its last one, and the place of each row within its group."""
    sizes = torch.bincount(group_ids)
    order = group_ids.argsort(stable=True)
    places = torch.empty_like(group_ids)
    places[order] = torch.arange(len(group_ids)) - (sizes.cumsum(0) - sizes)[group_ids[order]]
    rows = torch.zeros(len(sizes), int(sizes.max()), values.shape[1], dtype=values.dtype)
    rows[group_ids, places] = values
    return rows, places


def on_simplex(x: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
    """The nearest point with entries >= 0 that sum to 1 (Duchi et al. 2008, figure 1)."""
    ordered = x.sort(-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, x.shape[-1] + 1)
    last = (ordered > excess).sum(-1, keepdim=True) - 1
    return (x - excess.gather(-1, last)).clamp_min(0)


def _by_group(x: Float[Tensor, "S K"], group_ids: Int64[Tensor, "S"], count: int) -> Float[Tensor, "{count} K"]:
    return torch.zeros(count, x.shape[1], dtype=x.dtype).index_add(0, group_ids, x)
