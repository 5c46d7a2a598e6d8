"""From the outputs of a language model's last layer to its logits: a scale and a soft cap, found from values alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SIZES = (1e-5, 1.0, 10.0, 100.0, 1e6)
"""Sizes of the probed outputs: a cap is linear at the first, and constant at the last."""
TOLERANCE = 1e-5
"""Largest error of a form, relative to the logit: float32 products are exact to 1e-7."""
EXACT = 2e-7
"""Relative distance to a round number that rounding in float32 explains."""


class HeadForm(NamedTuple):
    """logits = cap(scale * outputs), with cap(x) = softcap * tanh(x / softcap), or the identity without a softcap."""

    scale: float
    softcap: float | None

    def logits(self, outputs: Tensor) -> Tensor:
        scaled = self.scale * outputs
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


def probes(width: int) -> Float[Tensor, "5 width"]:
    """Random outputs of a last layer, float32, a row for each of `SIZES`."""
    generator = torch.Generator().manual_seed(0)
    # No output is near 0, where a ratio is all rounding.
    values = (1 + torch.rand(len(SIZES), width, generator=generator)) * torch.randn(len(SIZES), width, generator=generator).sign()
    return torch.tensor(SIZES)[:, None] * values


def fit(outputs: Float[Tensor, "5 V"], logits: Float[Tensor, "5 V"]) -> HeadForm | None:
    """The form that maps `probes` to the logits of the model, or None if no scale and soft cap does so to `TOLERANCE`."""
    outputs, logits = outputs.double(), logits.double()
    scale = _round((logits[0] / outputs[0]).mean().item())
    cap = _round(logits[-1].abs().max().item())
    for form in (HeadForm(scale, None), HeadForm(scale, cap)):
        expected = form.logits(outputs)
        if scale and cap and bool(((expected - logits).abs() <= TOLERANCE * expected.abs()).all()):
            return form
    return None


def _round(value: float) -> float:
    """The short decimal, or reciprocal of one, that `value` is to rounding; else `value`."""
    if not value:
        return value
    candidates = (float(f"{value:.6g}"), 1 / float(f"{1 / value:.6g}"))
    return next((c for c in candidates if abs(c / value - 1) <= EXACT), value)
