"""The first use of the kernels on a device, for log-probs and for each divergence: what its compiler made of them, against float64.

Registration compares the traced graph with float64 in torch (codegen/check.py); no compiler has seen it then.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from align_kernels import triton_rows
from align_kernels.codegen import DivergenceError, Fused
from align_kernels.terms import outcome_terms
from align_kernels.triton_rows.apart import stop_unless_compiled
from align_kernels.triton_rows.launch import ONE_PASS, SUM

RELATIVE, ABSOLUTE = 512, 32
"""In roundings of the type, 6e-5 and 4e-6 in float32: the hardware's exp(x) is off by |x|/2 + 2 of them, 46 where it is largest, its
logarithm near 1 by 2 absolute, and a term is made of a few."""
_COMPILER = "the device's compiler has made something else of it"
_REMEDY = f"{_COMPILER}. Use the backend compile or torch for it"
POINTS = 12
"""On each side of log u = 0, from 1e-3 up to 8."""


@functools.cache
def check(device: torch.device, fn: Fused, dtype: torch.dtype) -> None:
    """One small tile through row_sum and row_grad, and two rows through one_pass where it is used, for logits accumulated in `dtype`.

    Waits for the device once for each.

    Raises DivergenceError where the kernels cannot be compiled, or where a value or a slope is not what float64 gives.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        stop_unless_compiled(fn, dtype, 10 * major + minor)
    x, z, u = _tile(dtype)
    (term, term_error), (pull, pull_error) = _expected(fn, z, u)
    terms, pulls, each_pull = _found(device, fn, z, u)
    for name, found, wanted, allowed in (
        ("value", terms, term.sum(-1), term_error.sum(-1)),
        ("slope", pulls, pull.sum(-1), pull_error.sum(-1)),
        ("slope", each_pull, pull, pull_error),
    ):
        # An Elementwise may have an infinite limit of its own, or none.
        same = ((found - wanted).abs() <= allowed) | (found == wanted) | (found.isnan() & wanted.isnan())
        if not same.all():
            at = (~same).nonzero()[0]
            raise DivergenceError(
                f"{fn.name}: on {device} the kernel's {name} where log u = {x[at[0]]:.3g} is {found[tuple(at)]:.6g}, and should be "
                f"{wanted[tuple(at)]:.6g}: {_REMEDY}"
            )
    if fn.power is not None:
        _check_one_pass(device, fn, dtype)


@functools.cache
def check_log_prob(device: torch.device, dtype: torch.dtype) -> None:
    """One small tile through row_stats, alone and beside another, and through row_grad without a divergence.

    Raises ValueError where a log-prob, an entropy or a gradient is not what float64 gives, and what the compiler or the device raises.
    """
    # Its last two rows are those where one side allows nothing.
    z, u = (t[:-2] for t in _tile(dtype)[1:])
    labels = torch.arange(1, len(z) + 1)
    labels += labels % 7 == 0
    logp, ref_logp = (torch.log_softmax(t.double(), -1) for t in (z, u))
    entropy = -torch.special.xlogy(logp.exp(), logp.exp()).sum(-1)
    grad = -logp.exp() * (1 + logp.masked_fill(logp == -torch.inf, 0.0) + entropy[:, None])
    grad.scatter_add_(1, labels[:, None], torch.ones_like(entropy)[:, None])
    z, u, there = (t.to(device, non_blocking=True) for t in (z, u, labels))
    alone = triton_rows.row_stats(z, None, there, scale=1.0)
    both = triton_rows.row_stats(z, u, there, scale=1.0, ref_scale=1.0)
    one = torch.ones_like(alone.logp)
    of_logits = triton_rows.row_grad(z, None, alone.lse_p, None, there, alone.entropy, None, one, one, None, scale=1.0)
    own, reference = (t.gather(1, labels[:, None])[:, 0] for t in (logp, ref_logp))
    for what, found, wanted in (
        ("log-prob", alone.logp, own),
        ("entropy", alone.entropy, entropy),
        ("log-prob", both.logp, own),
        ("reference's log-prob", both.ref_logp, reference),
        ("gradient", of_logits, grad),
    ):
        if not ((found.cpu() - wanted).abs() <= torch.finfo(dtype).eps * (RELATIVE * wanted.abs() + ABSOLUTE)).all():
            raise ValueError(f"on {device} the kernel's {what} is not what float64 gives: {_COMPILER}")


def _tile(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """log u of each row, and log p and log q [T, V] at many levels of probability, every seventh impossible under both.

    V is a tile of the kernels and a masked rest, a multiple of 16 as a real vocabulary is, so that what is compiled here is what will run.
    """
    side = torch.logspace(-3, 0.9, POINTS, dtype=dtype)
    x = torch.cat([torch.zeros(1, dtype=dtype), -side, side, torch.tensor([-torch.inf, torch.inf], dtype=dtype)])
    level = -torch.linspace(0, 5, SUM[dtype.itemsize]["B"] + 16, dtype=dtype)
    # The likelier side has the level; 1e-9 of it where the other allows nothing, for an infinite term is a large number of the type.
    level = level - 20 * torch.isinf(x)[:, None]
    z, u = level + x.clamp_max(0)[:, None], level - x.clamp_min(0)[:, None]
    z[:, ::7] = u[:, ::7] = -torch.inf
    return x, z, u


def _check_one_pass(device: torch.device, fn: Fused, dtype: torch.dtype) -> None:
    """Two rows; the label of the first is a centre, that of the second none, so that it is read again."""
    V = ONE_PASS[dtype.itemsize]["K"] * ONE_PASS[dtype.itemsize]["B"] + 16
    z = -torch.linspace(0, 5, V, dtype=dtype).flip(0).repeat(2, 1)
    u = z - torch.linspace(-1, 1, V, dtype=dtype) ** 3
    z[1, 0], u[1, 0] = -30, -40
    _, found, _ = triton_rows.one_pass(
        z.to(device), u.to(device), torch.tensor([V // 2, 0], device=device), scale=1.0, ref_scale=1.0, fn=fn
    )
    a, b = (torch.log_softmax(t.double(), -1) for t in (z, u))
    wanted = outcome_terms(fn.forms, a, b, a - b)[0].sum(-1)
    if not ((found.cpu() - wanted).abs() <= torch.finfo(dtype).eps * RELATIVE * wanted).all():
        raise DivergenceError(
            f"{fn.name}: on {device} the kernel's value of two rows is {found.tolist()}, and should be {wanted.tolist()}: {_REMEDY}"
        )


def _expected(fn: Fused, z: Tensor, u: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Value and slope of each outcome with the error allowed, float64: the divergence's own forms where both sides allow it.

    Where one does not, there is a limit of the type, which the traced graph has. What the graph loses elsewhere in the type is no fault of
    the device.
    """
    a, b = z.double(), u.double()
    exact = outcome_terms(fn.forms or fn, a, b, a - b)
    traced = (t.double() for t in fn.terms(z, u, z - u, z.exp(), u.exp(), *fn.params))
    possible, rounding = torch.isfinite(z) & torch.isfinite(u), torch.finfo(z.dtype).eps
    expected = []
    for one, other in zip(exact, traced, strict=True):
        wanted = torch.where(possible, one, other)
        lost = torch.where(possible, (one - other).abs(), 0.0)
        expected.append((wanted, lost + rounding * (RELATIVE * wanted.abs() + ABSOLUTE)))
    return expected


def _found(device: torch.device, fn: Fused, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of values and of slopes [T], and the slopes [T, V], float64, from the device."""
    # A copy that may block would be another wait.
    z, u = z.to(device, non_blocking=True), u.to(device, non_blocking=True)
    zero, one = (torch.full((len(z),), n, dtype=torch.float64, device=device) for n in (0.0, 1.0))
    terms, pulls = triton_rows.row_sum(z, u, zero, zero, scale=1.0, ref_scale=1.0, fn=fn)
    slopes = triton_rows.row_grad(z, u, zero, zero, None, None, zero.to(z.dtype), None, None, one.to(z.dtype), scale=1.0, fn=fn)
    terms, pulls, slopes = torch.cat([terms, pulls, slopes.flatten()]).cpu().double().split([len(z), len(z), z.numel()])
    return terms, pulls, slopes.view(z.shape)
