"""Every divergence of align's room, one of a user's, and what each is by definition: float64, f differentiated by autograd."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import align.divergences
from align.divergences import Divergence, StateFunctional
from align.divergences.renyi import Renyi
from align.divergences.tsallis import Tsallis
from align_kernels.codegen.forms import TorchForms
from align_kernels.codegen.power import power_and_forms


class Users(Divergence):
    """u^1.5 - u, and nothing but f: what a plugin's author writes."""

    def f(self, log_u: Tensor) -> Tensor:
        return torch.exp(log_u) ** 1.5 - torch.exp(log_u)


def _room() -> dict[str, Divergence]:
    found = {}
    for module in pkgutil.iter_modules(align.divergences.__path__):
        if not module.name.startswith("_"):
            inside = vars(importlib.import_module(f"align.divergences.{module.name}")).values()
            (part,) = (v for v in inside if isinstance(v, type) and issubclass(v, Divergence) and v.__module__.endswith(f".{module.name}"))
            if not issubclass(part, StateFunctional):  # which has no kernel
                found[module.name] = part()
    return found


ROOM = _room()
DIVERGENCES = ROOM | {"users": Users()}


def _kind(divergence: Divergence) -> str:
    """What sets its terms apart: a transform, an f alone, a power of u or one of its two limits, a kink, a bounded slope, or none."""
    if not divergence.is_f_divergence:
        return "transform"
    if type(divergence).bregman is Divergence.bregman:
        return "f alone"
    power, _ = power_and_forms(TorchForms(divergence.bregman, divergence.khat, divergence.grad_weight))
    if power is not None:
        return {0.0: "forward KL", 1.0: "reverse KL"}.get(power, "power" if power > 0 else "negative power")
    left, below, above, right = divergence.grad_weight(torch.tensor([-60.0, -1e-9, 1e-9, 60.0], dtype=torch.float64)).tolist()
    if above - below > 0.1:
        return "kink"
    return "mixture" if min(abs(left), abs(right)) < 20 else "sum"


def _one_of_each() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, divergence in DIVERGENCES.items():
        found.setdefault(_kind(divergence), name)
    return found


ONE_OF_EACH = _one_of_each()
"""By kind the first divergence of it, for what depends on the kind alone."""
ALPHA_KINDS = {"transform", "f alone", "forward KL", "reverse KL", "power", "negative power"}
"""Those of the alpha family, which one pass measures."""
assert ONE_OF_EACH.keys() == ALPHA_KINDS | {"kink", "mixture", "sum"}
REPRESENTATIVES = sorted(ONE_OF_EACH.values())


def logits(t: int, v: int, drift: float | Tensor, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Policy's and reference's [t, v], and labels."""
    random = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(t, v, generator=random, dtype=torch.float64)
    u = z + drift * torch.randn(t, v, generator=random, dtype=torch.float64)
    return z.to(dtype), u.to(dtype), torch.randint(v, (t,), generator=random)


def defined(divergence: Any, a: Tensor, b: Tensor) -> Tensor:
    """The divergence of log-probs a, b [T, V] by its definition."""
    if isinstance(divergence, Renyi):
        mean = (b.exp() * Tsallis.f(divergence, a - b)).sum(-1)
        return torch.log1p((divergence.q - 1) * mean) / (divergence.q - 1)
    return (b.exp() * divergence.f(a - b)).sum(-1)


def oracle(
    z: Tensor,
    u: Tensor,
    labels: Tensor,
    of: Callable[[Tensor, Tensor], Tensor],
    weights: Tensor,
    scale: float = 1.0,
    cap: float | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """By name the statistics [T], and the gradient of their `weights` [3, T] sum (log-prob, entropy, divergence) in z."""
    z, u = z.double().detach().clone().requires_grad_(), u.double()
    x, y = (scale * (t if cap is None else cap * torch.tanh(t / cap)) for t in (z, u))
    a, b = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
    stats = {"logp": a.gather(1, labels[:, None])[:, 0], "entropy": -(a.exp() * a).sum(-1), "div": of(a, b)}
    (grad,) = torch.autograd.grad(sum((w.double() * s).sum() for w, s in zip(weights, stats.values(), strict=True)), z)
    return {k: s.detach() for k, s in stats.items()}, grad
