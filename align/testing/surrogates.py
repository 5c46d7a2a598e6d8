"""Checks of a surrogate: a loss for each token whose gradient at pi_old is a policy gradient, and a correct `effective_log_ratio`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.core.credit import Packing
from align.surrogates import Surrogate
from align.testing.findings import Finding, Kit, shown
from align.testing.formulas import MEND, explained

KIT = Kit("surrogate")
AT = Packing(torch.tensor([0, 0, 0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 3, 0, 0, 1, 2]))
"""Answers of four, one and three tokens."""
ADVANTAGES = torch.tensor([1.0, -0.5, 2.0, 0.7, -1.3, 0.2, -0.4, 1.1])
NEAR = 0.02 * torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, -0.5, 1.5])
"""Log-ratios, in nats, that no bound of a published surrogate clips, except GSPO's."""
FAR = 8.0
"""A large log-ratio, in nats."""


def check_surrogate(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a surrogate, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def slope(s: Surrogate, log_rho: Tensor, advantages: Tensor = ADVANTAGES, at: Packing = AT) -> tuple[Tensor, Tensor]:
    """d loss/d log pi of each token, and whether a bound clipped it."""
    x = log_rho.clone().requires_grad_()
    loss, cut = s.loss(x, advantages.to(x.dtype), at)
    return torch.autograd.grad(loss.sum(), x)[0], cut


@KIT.check("loss", "return (loss [T], cut bool [T]): the loss in the type of log_rho, and cut without a gradient")
def _loss(s: Surrogate) -> str | None:
    """a finite loss for each token and whether a bound clipped it, near pi_old and eight nats from it"""
    for log_rho in (torch.zeros(8), NEAR, FAR * NEAR.sign()):
        for dtype in (torch.float32, torch.float64):
            loss, cut = s.loss(log_rho.to(dtype, copy=True).requires_grad_(), ADVANTAGES.to(dtype), AT)
            if loss.shape != (8,) or loss.dtype != dtype or not loss.isfinite().all():
                return f"loss is {list(loss.shape)} {loss.dtype}{'' if loss.isfinite().all() else ', not all finite'}, of 8 {dtype} tokens"
            if cut.shape != (8,) or cut.dtype != torch.bool or cut.requires_grad:
                return f"cut is {list(cut.shape)} {cut.dtype}, of 8 tokens"
        if not slope(s, log_rho)[0].isfinite().all():
            return "its gradient is not finite"
    return None


@KIT.check("policy gradient", "return a loss to minimise: at log_rho = 0 the gradient is -A grad log pi, and nothing is cut")
def _at_pi_old(s: Surrogate) -> str | None:
    """at pi_old the gradient of each token is -A, and no bound clips"""
    found, cut = slope(s, torch.zeros(8))
    if cut.any():
        return "a bound cuts there"
    return None if torch.allclose(found, -ADVANTAGES, atol=1e-5) else f"it is {shown(found)} for A = {shown(ADVANTAGES)}"


@KIT.check(
    "effective ratio",
    "return log w from effective_log_ratio, if the gradient is -w A grad log pi where no bound clips; else set "
    "`ratio_varies` to the reason why there is no such w",
)
def _ratio(s: Surrogate) -> str | None:
    """without clipping, the slope of the loss is minus its effective ratio times the advantage, for both signs"""
    for log_rho in (scale * NEAR.double() for scale in (1, 10, 50, 130)):  # up to 8 nats from pi_old
        said = s.effective_log_ratio(log_rho, AT)
        if said.shape != (8,) or said.requires_grad or not said.isfinite().all():
            return f"log w is {list(said.shape)}, not finite or not detached, of 8 tokens"
        for sign in (1.0,) if s.ratio_varies else (1.0, -1.0):
            found, cut = slope(s, log_rho, torch.full((8,), sign))
            stopped = cut & (found == 0)
            if not torch.allclose(torch.where(stopped, 0.0, -sign * found), torch.where(stopped, 0.0, said.exp()), rtol=1e-6):
                return f"it says {shown(said.exp())}, and the slope is {shown(-sign * found)}"
    return None


@KIT.check("any split", "compute a token's loss from its own answer only")
def _split(s: Surrogate) -> str | None:
    """another answer does not change the losses of this one"""
    first = AT.seq_ids == 0
    alone, _ = s.loss(NEAR[first], ADVANTAGES[first], Packing(AT.seq_ids[first], AT.positions[first]))
    return None if torch.allclose(alone, s.loss(NEAR, ADVANTAGES, AT)[0][first], atol=1e-6) else "it does"


@KIT.check("explained", MEND)
def _explained(s: Surrogate) -> str | None:
    """it states its objective and the meaning of the symbols"""
    return explained(s)
