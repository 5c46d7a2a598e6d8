"""The self-check at registration: what is emitted against the divergence's own formulas in float64."""

from __future__ import annotations

import torch

from align_kernels.codegen.errors import DivergenceError, blamed_on, name_of
from align_kernels.codegen.forms import TorchForms
from align_kernels.codegen.nodes import evaluate
from align_kernels.codegen.terms import Terms, tiles

_RELATIVE, _ABSOLUTE = 2e-5, 2e-6


def check_forms(forms: TorchForms, divergence: object) -> None:
    """k_f >= 0 (f lies above its tangent at u = 1) and finite, on |log u| <= 8."""
    x = torch.cat([side * torch.logspace(-2, 0.9, 60, dtype=torch.float64) for side in (-1, 1)])
    with blamed_on(divergence):
        value = torch.where(x < 0, forms.bregman(x), torch.exp(x) * forms.khat(x))
        grad_weight = forms.grad_weight(x)
    bad = ~torch.isfinite(value) | ~torch.isfinite(grad_weight)
    if bad.any():
        raise DivergenceError(f"{name_of(divergence)} is not finite at log u = {x[bad][0]:.3g}")
    negative = value < -1e-9 * value.abs().max()
    if negative.any():
        raise DivergenceError(
            f"{name_of(divergence)}: f lies below its tangent at u = 1 where log u = {x[negative][0]:.3g}, so it is no divergence: "
            "policy and reference that differ could measure less than 0. Give it as Elementwise(phi), which asks for no such thing"
        )


def check_emitted(emitted: Terms, forms: TorchForms, divergence: object) -> None:
    """The float32 graph at |log u| <= 8 against float64: a few roundings, relative to the token's probability where the value cancels."""
    x = torch.cat([torch.zeros(1), *(side * torch.logspace(-4, 0.9, 200) for side in (-1, 1))])
    exact = {name: t.double() for name, t in tiles(x).items()}
    below = exact["d"] < 0
    with blamed_on(divergence):
        term = torch.where(below, exact["q"] * forms.bregman(exact["d"]), exact["p"] * forms.khat(exact["d"]))
        pull = exact["p"] * forms.grad_weight(exact["d"])
    for name, got, wanted in zip(("value", "slope", "value", "slope"), evaluate(emitted, tiles(x)), (term, pull, term, pull), strict=True):
        error = (got.double() - wanted).abs() - _RELATIVE * wanted.abs()
        if not (error <= _ABSOLUTE).all():
            worst = x[torch.nan_to_num(error, nan=torch.inf).argmax()].item()
            raise DivergenceError(
                f"{name_of(divergence)}: in float32 the {name} at log u = {worst:.3g} is far from that of float64; write it with "
                "torch.expm1 and torch.log1p where numbers near each other are subtracted"
            )
