"""Whether a divergence belongs to the alpha family, whose sums need no normaliser: `k_f(u) = s k_a(u)` for one scale s and power a.

`k_a(u) = (u^a - 1 - a (u - 1))/(a (a - 1))`, its limits for a = 0 (forward KL) and a = 1 (reverse KL) included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align_kernels.codegen.forms import Held, TorchForms

_REACH = 60.0
"""Nats: a log-ratio that is clipped, or a tail of its own, begins long before."""
_DIGITS = 12
"""Of the power, which follows from two values of the slope."""


def power_and_forms(forms: TorchForms) -> tuple[float | None, TorchForms]:
    """a, or None for any other divergence, as float64 tells on |log u| <= 60; and the forms.

    Of the family, those that are derived from f, and held where float32 loses them, are replaced by closed ones.
    """
    whole = TorchForms(*(form.whole if isinstance(form, Held) else form for form in forms))
    one = torch.ones(1, dtype=torch.float64)
    up, down = whole.grad_weight(one).item(), whole.grad_weight(-one).item()
    if not up > 0 > down:
        return None, forms
    # c(u) = s (u^b - 1)/b with b = a - 1.
    b = round(torch.log(-up / (down * one)).item(), _DIGITS)
    family = _forms(b + 1, up / _scaled_expm1(one, b).item())
    x = torch.linspace(-_REACH, _REACH, 1201, dtype=torch.float64)
    values = (torch.where(x < 0, form.bregman(x), torch.exp(x) * form.khat(x)) for form in (whole, family))
    if not torch.allclose(*values, rtol=1e-7, atol=1e-11):
        return None, forms
    return b + 1, TorchForms(*(own if isinstance(form, Held) else form for form, own in zip(forms, family, strict=True)))


def _forms(a: float, scale: float) -> TorchForms:
    def bregman(x: Tensor) -> Tensor:
        if a == 0:
            return scale * (torch.expm1(x) - x)
        return scale * (torch.exp(x) * x - torch.expm1(x) if a == 1 else (_scaled_expm1(x, a) - torch.expm1(x)) / (a - 1))

    def khat(x: Tensor) -> Tensor:
        if a == 0:
            return -scale * (torch.expm1(-x) + x * torch.exp(-x))
        return scale * (_scaled_expm1(x, a - 1) + torch.expm1(-x)) / a

    return TorchForms(bregman, khat, lambda x: scale * _scaled_expm1(x, a - 1))


def _scaled_expm1(x: Tensor, c: float) -> Tensor:
    """(e^(c x) - 1)/c."""
    return x if c == 0 else torch.expm1(c * x) / c
