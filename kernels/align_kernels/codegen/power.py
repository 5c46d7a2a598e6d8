"""Whether a divergence belongs to the alpha family, whose sums need no normaliser: `k_f(u) = s k_a(u)` for one scale s and power a.

`k_a(u) = (u^a - 1 - a (u - 1))/(a (a - 1))`, its limits for a = 0 (forward KL) and a = 1 (reverse KL) included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align_kernels.codegen.forms import TorchForms

_REACH = 60.0
"""Nats: a log-ratio that is clipped, or a tail of its own, begins long before."""
_DIGITS = 12
"""Of the power, which follows from two values of the slope."""


def power_of(forms: TorchForms) -> float | None:
    """a, or None for any other divergence, as float64 tells on |log u| <= 60; a derived form before it is held where float32 ends."""
    forms = TorchForms(*(getattr(form, "whole", form) for form in forms))
    one = torch.ones(1, dtype=torch.float64)
    up, down = forms.coefficient(one).item(), forms.coefficient(-one).item()
    if not up > 0 > down:
        return None
    # c(u) = s (u^b - 1)/b with b = a - 1.
    b = round(torch.log(-up / (down * one)).item(), _DIGITS)
    scale = up / _scaled_expm1(one, b).item()
    x = torch.linspace(-_REACH, _REACH, 1201, dtype=torch.float64)
    found = torch.where(x < 0, forms.generator(x), torch.exp(x) * forms.value(x))
    return b + 1 if torch.allclose(found, scale * _family(x, b + 1), rtol=1e-7, atol=1e-11) else None


def _scaled_expm1(x: Tensor, c: float) -> Tensor:
    """(e^(c x) - 1)/c."""
    return x if c == 0 else torch.expm1(c * x) / c


def _family(x: Tensor, a: float) -> Tensor:
    """k_a(e^x)."""
    if a == 0:
        return torch.expm1(x) - x
    return torch.exp(x) * x - torch.expm1(x) if a == 1 else (_scaled_expm1(x, a) - torch.expm1(x)) / (a - 1)
