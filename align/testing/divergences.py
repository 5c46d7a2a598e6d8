"""Checks of a divergence: a convex f with f(1) = 0, and closed forms consistent with f."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from align.audit import audit
from align.config.nodes import build_part
from align.divergences import Divergence, StateFunctional
from align.oracle import divergence_check
from align.testing.findings import Finding, Kit, shown

KIT = Kit("divergence")
FAR = 20.0
"""Largest |log-ratio|, in nats, at which a divergence must be finite in float32; a run clamps its samples to it."""
METHODS = ("f", "f_prime", "grad_weight", "bregman", "khat")
DIFFERENCES = ("grad_weight", "bregman", "khat")
"""Functions that are differences of nearly equal terms near u = 1, where digits are lost."""


def check_divergence(part: Any, /, **keys: Any) -> list[Finding]:
    """Run every check of a divergence, given by name, as a class with keys, or built."""
    return KIT.run(part, keys)


def grid(dtype: torch.dtype = torch.float64, far: float = FAR) -> Tensor:
    """log u from -far to far, dense near 0 but without 0."""
    positive = torch.logspace(-3, torch.tensor(far).log10().item(), 60, dtype=torch.float64)
    return torch.cat([-positive.flip(0), positive]).to(dtype)


def at_worst(error: Tensor, x: Tensor, limit: float) -> str | None:
    """The place where an error [n] at log u = x [n] exceeds the limit or is NaN, or None."""
    error = error.double().nan_to_num(nan=torch.inf)
    worst = int(error.argmax())
    return None if error[worst] <= limit else f"off by {error[worst].item():.1e} at log u = {x[worst].item():.3g}"


def elementwise(method: Callable[[Tensor], Tensor], name: str) -> str | None:
    """What is wrong with shape, dtype or elementwise independence of a function, or whether it changes its input; None if it is fine."""
    for dtype in (torch.float32, torch.float64):
        x = grid(dtype)
        kept, whole = x.clone(), method(x)
        for shape in ((), (0,), (3,), (2, 3)):
            count = torch.Size(shape).numel()
            part = method(x[40 : 40 + count].reshape(shape))
            if part.shape != shape or part.dtype != dtype:
                return f"{name} of {list(shape)} {dtype} is {list(part.shape)} {part.dtype}"
            if not torch.equal(part.flatten(), whole[40 : 40 + count]):
                return f"{name} of an entry depends on its neighbours, or differs from call to call"
        if not torch.equal(x, kept):
            return f"{name} writes into its input"
    return None


def holds(method: Callable[[Tensor], Tensor], name: str) -> str | None:
    """Where the function is not finite in float32, or None."""
    x = grid(torch.float32)
    y = method(x)
    return None if y.isfinite().all() else f"{name} is {shown(y[~y.isfinite()][0])} at log u = {x[~y.isfinite()][0].item():.3g}"


def digits(method: Callable[[Tensor], Tensor], name: str) -> str | None:
    """Where float32 differs from float64, relatively, or None."""
    x = grid(torch.float32)
    exact = method(x.double())
    worst = at_worst((method(x) - exact).abs() / exact.abs().clamp_min(torch.finfo(torch.float64).tiny), x, 1e-3)
    return worst and f"{name} in float32 is {worst}, relative"


def first(found: Any) -> str | None:
    """The first problem, or None."""
    return next((complaint for complaint in found if complaint), None)


def _of_f(check: Callable[[Divergence], str | None]) -> Callable[[Divergence], str | None]:
    """A check of f and its closed forms, which a function of whole distributions has not."""

    @functools.wraps(check)
    def checked(d: Divergence) -> str | None:
        return None if isinstance(d, StateFunctional) else check(d)

    return checked


@KIT.check("elementwise", "write f with tensor operations on log_u only, none in place; new tensors take its dtype")
@_of_f
def _elementwise(d: Divergence) -> str | None:
    """every method keeps shape and dtype, also of an empty tensor, is elementwise, and does not change its input"""
    return first(elementwise(getattr(d, name), name) for name in METHODS)


@KIT.check("f(1) = 0", "subtract f(1) from f")
@_of_f
def _zero(d: Divergence) -> str | None:
    """f is 0 if policy and reference agree"""
    return _text(divergence_check.zero_at_one(d))


@KIT.check("convex", "check the sign and direction of f: it takes log(pi/ref), and what is minimised must be convex in pi/ref")
@_of_f
def _convex(d: Divergence) -> str | None:
    """f is above its tangent at u = 1, and f' never decreases with u, for |log u| up to 20"""
    return _text(divergence_check.below_tangent(d) or divergence_check.falling_slope(d))


@KIT.check("not negative", "write `bregman` as f(u) - f(1) - f'(1)(u - 1), `khat` as that over u, both without cancellation")
@_of_f
def _not_negative(d: Divergence) -> str | None:
    """bregman and khat are at least 0"""
    x = grid(torch.float32)
    return first(
        f"{name} is {y.min().item():.3g} at log u = {x[int(y.argmin())].item():.3g}" if y.min() < 0 else None
        for name, y in (("bregman", d.bregman(x)), ("khat", d.khat(x)))
    )


@KIT.check("finite", "use expm1 and log1p, and put products of powers in one exponent")
@_of_f
def _finite(d: Divergence) -> str | None:
    """every method is finite in float32 for |log u| up to 20"""
    return first(holds(getattr(d, name), name) for name in METHODS)


@KIT.check("f_prime", "f_prime is the derivative in u, not in log u; delete it to use autograd")
@_of_f
def _slope(d: Divergence) -> str | None:
    """f_prime is df/du, by autograd in float64, for |log u| up to 20"""
    return _text(divergence_check.mismatch(d, "f_prime"))


@KIT.check("grad_weight", "grad_weight is f_prime(log_u) - f_prime(0); delete it to use that")
@_of_f
def _coefficient(d: Divergence) -> str | None:
    """grad_weight is f'(u) - f'(1), for |log u| up to 20"""
    return _text(divergence_check.mismatch(d, "grad_weight"))


@KIT.check("bregman", "bregman is f(u) - f(1) - f'(1)(u - 1); delete it to use that")
@_of_f
def _bregman(d: Divergence) -> str | None:
    """bregman is f(u) - f(1) - f'(1)(u - 1), for |log u| up to 20"""
    return _text(divergence_check.mismatch(d, "bregman"))


@KIT.check("khat", "khat is bregman/u; delete it to use that")
@_of_f
def _value(d: Divergence) -> str | None:
    """khat is bregman over u, for |log u| up to 20"""
    return _text(divergence_check.mismatch(d, "khat"))


@KIT.check("digits", "near u = 1 a difference of large terms loses its digits: use expm1 and log1p, or compute in float64 and cast back")
@_of_f
def _digits(d: Divergence) -> str | None:
    """grad_weight, bregman and khat in float32 agree with float64 to 1e-3, near u = 1 too"""
    return first(digits(getattr(d, name), name) for name in DIFFERENCES)


@KIT.check("full_support", "set `full_support = False` in the class: a preference link then refuses it, as it must")
@_of_f
def _full_support(d: Divergence) -> str | None:
    """with full_support, f' falls without bound as u goes to 0"""
    near, far, at_one = d.f_prime(torch.tensor([-15.0, -27.0, -1.0], dtype=torch.float64)).tolist()
    return None if not d.full_support or far < near - 1e-3 * abs(near - at_one) else f"f' is {near:.3g} at log u = -15 and {far:.3g} at -27"


@KIT.check("transform", "transform returns the divergence and its derivative in `mean`; it must grow, from 0 at 0")
@_of_f
def _transform(d: Divergence) -> str | None:
    """transform is 0 at 0, grows, and its second result is its derivative"""
    mean = torch.linspace(0, 0.9, 10, dtype=torch.float64, requires_grad=True)
    value, slope = d.transform(mean)
    (exact,) = torch.autograd.grad(value.sum(), mean)
    if value[0].abs() > 1e-12 or (value.diff() <= 0).any():
        return f"it is {value[0].item():.3g} at 0, and {'grows' if (value.diff() > 0).all() else 'does not grow'}"
    return None if torch.allclose(slope, exact, rtol=1e-7) else "its slope is another"


@KIT.check(
    "of state", "return one number a state, of that state alone, with a gradient in logp; `zero_at_reference = False` if it is a loss"
)
def _of_state(d: Divergence) -> str | None:
    """of a function of whole distributions: one finite number and gradient a state, of it alone, and 0 at the reference if so stated"""
    if not isinstance(d, StateFunctional):
        return None
    for dtype in (torch.float32, torch.float64):
        logits = 4 * torch.sin(torch.arange(42, dtype=dtype) ** 2).view(2, 3, 7)
        leaf, ref = logits[0].clone().requires_grad_(), torch.log_softmax(logits[1], -1)
        found = d.of_state(torch.log_softmax(leaf, -1), ref)
        if found.shape != (3,) or found.dtype != dtype or not found.isfinite().all():
            return (
                f"of log-probs [3, 7] {dtype} it is {list(found.shape)} {found.dtype}, {'' if found.isfinite().all() else 'not '}all finite"
            )
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        if not gradient.isfinite().all() or not gradient.abs().max() > 0:
            return "its gradient is zero, or not finite"
        alone = d.of_state(torch.log_softmax(logits[0, :1], -1), ref[:1])
        if not torch.allclose(alone, found[:1].detach(), rtol=1e-5):
            return "a state's number depends on the other states of the call"
    same = d.of_state(ref, ref).abs().max().item()
    return f"it is {same:.3g} where policy and reference agree" if d.zero_at_reference and same > 1e-12 else None


@KIT.check("gradient", "make f, f_prime, grad_weight and transform agree: the checks above show which does not")
def _gradient(d: Divergence) -> str | None:
    """by enumeration, every estimator of it has the exact gradient of E_ref[f(u)], on- and off-policy"""
    for estimator in ("sampled", "exact") if d.is_f_divergence else ("exact",):
        regularizer = build_part("regularizer", {"coefficient": 1.0, "estimator": estimator}, estimator)
        object.__setattr__(regularizer, "divergence", d)
        certificate = audit(regularizer)
        if certificate.verdict != "exact":
            return f"by {estimator}: {certificate.reason}"
    return None


def _text(fault: divergence_check.Fault | None) -> str | None:
    return None if fault is None else fault.text
