"""Judges a divergence by its f: convex in u with f(1) = 0, and closed forms that are those of f. Used by recipes, `audit` and `check`.

Every comparison is relative to the terms that it subtracts, so f and 1e-9 f are judged alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from align.config.parts import location
from align.config.tracebacks import own_frames
from align.divergences import Divergence, StateFunctional
from align.errors import RecipeError

FAR = 20.0
"""Largest |log u| that is tested, in nats: a run clamps its samples' log-ratios to it."""
CLOSE = 3.0
"""Up to this |log u|, in nats, f must be finite in float64; beyond it may overflow."""
RELATIVE = 1e-6
"""Of a closed form, to what f gives in float64."""
ROUNDING = 1e-10
"""Of a difference, to its terms: float64, with digits to spare for an f that loses some."""
SINGLE = 1e-3
"""Of a value in float32 to the largest one: other code for float32, not rounding, differs by more."""
EVERY = 6
"""One log-ratio of so many is computed seven at a time: calls take the time, and a dependence on their number shows at every one."""
DIGITS = 1e-14
"""Of float64."""
FORMS = ("f_prime", "grad_weight", "bregman", "khat")
"""Methods that a divergence may override with a closed form."""


@dataclass(frozen=True)
class Fault:
    """The first problem of a divergence."""

    check: str
    """`f(1) = 0`, `convex` or the name of a closed form."""
    text: str


def grid() -> Tensor:
    """log u from -20 to 20 in steps of 0.01, and down to 1e-4 nats from 0, where most tokens are; float64, without 0, where f may have a
    kink."""
    near = torch.logspace(-4, -1.5, 20, dtype=torch.float64)
    return torch.cat([torch.linspace(-FAR, FAR, 4000, dtype=torch.float64), near, -near]).sort().values


def fault(divergence: Divergence) -> Fault | None:
    """What is wrong with f or with a closed form of the divergence for |log u| <= 20 nats, or None."""
    if isinstance(divergence, StateFunctional):
        return None
    checks: list[Callable[[Divergence], Fault | None]] = [below_tangent, zero_at_one, falling_slope, not_elementwise]
    checks += [lambda d, name=name: mismatch(d, name) for name in FORMS]
    return next((found for check in checks if (found := check(divergence)) is not None), None)


def zero_at_one(divergence: Divergence) -> Fault | None:
    """f(1) = 0, relative to f at one nat."""
    at_one, below, above = divergence.f(torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64)).tolist()
    if abs(at_one) <= RELATIVE * max(abs(below - at_one), abs(above - at_one)):
        return None
    return Fault("f(1) = 0", f"f(1) is {at_one:.3g}, and a divergence is 0 where policy and reference agree: subtract it from f")


def below_tangent(divergence: Divergence) -> Fault | None:
    """Every convex f is above its tangent at u = 1; with a sign error it is below."""
    x = grid()
    f, line = divergence.f(x) - divergence.f(torch.zeros_like(x)), _line(divergence, x)
    below = ~(f - line >= -RELATIVE * (f.abs() + line.abs())) & ~_overflown(f, x)
    if not below.any():
        return None
    # The place closest to u = 1: the next sign of a mistake is what its author can check by hand.
    at = int(torch.where(below, x.abs(), torch.inf).argmin())
    return Fault(
        "convex",
        f"f must be convex in u = pi/ref, but f(u) - f(1) is {f[at].item():.3g} at log u = {x[at].item():.3g}, where its tangent at u = 1 "
        f"is {line[at].item():.3g}: check its sign, and that it is finite",
    )


def falling_slope(divergence: Divergence) -> Fault | None:
    """f' never falls as u grows, unless the divergence declares `convex = False`."""
    if not divergence.convex:
        return None
    x = grid()
    slope = divergence.by_f.f_prime(x)
    size = RELATIVE * slope.abs() + _cancellation_error(divergence, x)
    highest, at_highest = slope.cummax(0)  # a slow fall shows over many steps
    falls = highest - slope > size + size[at_highest]
    if not falls.any():
        return None
    at = int(falls.nonzero()[0])
    top = int(at_highest[at])
    return Fault(
        "convex",
        f"f must be convex in u = pi/ref, but f' falls from {slope[top].item():.3g} at log u = {x[top].item():.3g} to "
        f"{slope[at].item():.3g} at {x[at].item():.3g}: write f for all u, without a clamp",
    )


def not_elementwise(divergence: Divergence) -> Fault | None:
    """f of one log-ratio, and of one in float32, is what it is among many in float64, which is how it is judged."""
    x = grid()
    x = x[x.abs() <= CLOSE]
    text = elementwise_fault(divergence.f, x, 0.0)
    return None if text is None else Fault("elementwise", f"f {text}")


def elementwise_fault(function: Callable[[Tensor], Tensor], x: Tensor, terms: float) -> str | None:
    """How a function of log-ratios depends on more than each of them: on their number, or on their type; None if it does not.

    `terms`: the size of what it subtracts, which rounding is relative to.
    """
    many, some = function(x), x[::EVERY]
    few, low = torch.cat([function(part) for part in some.split(7)]), function(x.float())
    size = many.abs().max() + terms
    for asked, found, wanted, within, of in (
        (some, few, many[::EVERY], RELATIVE, "seven log-ratios at a time"),
        (x, low, many, SINGLE, "float32"),
    ):
        wrong = ~((found.double() - wanted).abs() <= within * (size + wanted.abs()))
        if wrong.any():
            at = int(wrong.nonzero()[0])
            return (
                f"of {of} is {found[at].item():.4g} at log u = {asked[at].item():.3g}, and {wanted[at].item():.4g} of {len(x)} in float64: "
                "compute each entry from its own log-ratio alone, in any type"
            )
    return None


def mismatch(divergence: Divergence, name: str) -> Fault | None:
    """Where the closed form `name` of the divergence is not that of its f, or None."""
    if getattr(type(divergence), name) is getattr(Divergence, name):
        return None
    x = grid()
    wanted, terms = _by_f(divergence, name, x)
    found = getattr(divergence, name)(x).double()
    wrong = ~((found - wanted).abs() <= RELATIVE * wanted.abs() + ROUNDING * terms) & wanted.isfinite() & terms.isfinite()
    if not wrong.any():
        return None
    # The nearest log-ratio at which four digits show the difference.
    shown = wrong & ((found - wanted).abs() > 1e-3 * wanted.abs())
    at = int(torch.where(shown if shown.any() else wrong, x.abs(), torch.inf).argmin())
    return Fault(
        name,
        f"`{name}` is {found[at].item():.4g} at log u = {x[at].item():.3g}, and f gives {wanted[at].item():.4g}: an estimator would take "
        "the gradient of one and the value of the other. Correct it, or delete it, so that it follows from f",
    )


def try_divergence(divergence: Divergence, where: str) -> None:
    """Raises RecipeError at `where` if f cannot be called on tensors or has no gradient, or for a `fault` of the divergence."""
    command = f"`align check {divergence.recipe_name}`"
    try:
        if isinstance(divergence, StateFunctional):
            _try_state(divergence)
            return
        divergence.f(torch.tensor([-1.0, 0.0, 1.0]))
        untracked = _gradient_fault(divergence)
        found = None if untracked else fault(divergence)
    except (Exception, SystemExit) as error:
        frames = own_frames(error)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else location(type(divergence))
        raise RecipeError(where, f"{place}: {type(error).__name__}: {error}\n{_takes(divergence)}; {command} tries all of it") from error
    if untracked:
        raise RecipeError(where, f"{location(type(divergence))}: {untracked}; {command} tries all of it")
    if found is not None:
        raise RecipeError(where, f"{location(type(divergence))}: {found.text}; {command} tries all of it")


def _takes(divergence: Divergence) -> str:
    if isinstance(divergence, StateFunctional):
        return "of_state(logp, ref_logp) takes log-probs [..., V] and returns [...], differentiable: write it with torch functions"
    return "f(log_u) takes a tensor of any shape and returns one like it: write it with torch functions (log_u.exp(), not math.exp(log_u))"


def _try_state(divergence: StateFunctional) -> None:
    """Raises TypeError unless `of_state` gives one number a state, with a gradient."""
    logp = torch.log_softmax(torch.tensor([[0.0, 1.0, -1.0], [0.3, 0.0, 2.0]], dtype=torch.float64), -1)
    with torch.enable_grad():
        found = divergence.of_state(logp.clone().requires_grad_(), logp.flip(0))
    if not isinstance(found, Tensor) or found.shape != (2,) or not found.requires_grad:
        raise TypeError(f"of_state returned {found!r:.60} for log-probs [2, 3]: it must be [2], with a gradient in logp")


def _gradient_fault(divergence: Divergence) -> str | None:
    """Why f has no gradient, or None."""
    with torch.enable_grad():
        y = divergence.f(torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True))
    if not isinstance(y, Tensor):
        raise TypeError(f"f returned {y!r:.60}, which is no tensor")
    if y.requires_grad and not y.is_inference():
        return None
    return (
        "f has no gradient in log_u, and a loss needs its derivative: leave out torch.inference_mode, torch.no_grad, `.detach()` and "
        "`.item()`"
    )


def _by_f(divergence: Divergence, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What f gives for a closed form at log u = x, and the size of the terms it is a difference of."""
    by_f = divergence.by_f
    if name in ("f_prime", "grad_weight"):
        slope, at_one = by_f.f_prime(x), by_f.at_one.slope
        return (slope if name == "f_prime" else slope - at_one), slope.abs() + abs(at_one) + _cancellation_error(divergence, x) / ROUNDING
    f, at_one, line = divergence.f(x), by_f.at_one.f, _line(divergence, x)
    per = torch.exp(-x) if name == "khat" else torch.ones_like(x)
    return (f - at_one - line) * per, (f.abs() + abs(at_one) + line.abs()) * per


def _cancellation_error(divergence: Divergence, x: Tensor) -> Tensor:
    """What f' may be off by where df/dx is a difference of terms as large as f."""
    return DIGITS * divergence.f(x).abs() * torch.exp(-x)


def _line(divergence: Divergence, x: Tensor) -> Tensor:
    """f'(1)(u - 1)."""
    return divergence.by_f.at_one.slope * torch.expm1(x)


def _overflown(f: Tensor, x: Tensor) -> Tensor:
    """Where f is not finite beyond `CLOSE`, after it has grown beyond 1e150 on the same side of u = 1."""
    lost = ~f.isfinite() & (x.abs() > CLOSE)
    if lost.any():
        huge = f.isfinite() & (f.abs() > 1e150)
        for side in (x < 0, x > 0):
            began = torch.where(huge & side, x.abs(), torch.inf).min()
            lost &= ~side | (x.abs() > began)
    return lost
