"""Calls a user's divergence once when the recipe is built, so that a mistake in its formula is found before the run."""

from __future__ import annotations

import torch

from align.config.nodes import location
from align.config.tracebacks import own_frames
from align.divergences import Divergence
from align.errors import RecipeError

FAR = 3.0
"""Largest |log u| that is tested, in nats."""
FORMS = ("f_prime", "grad_weight", "bregman", "khat")
"""Methods that a divergence may override with a closed form."""


def try_divergence(divergence: Divergence, where: str) -> None:
    """Raises RecipeError at `where` if f cannot be called on tensors, if it is below its tangent at u = 1 for some |log u| <= 3, or if a
    closed form of the divergence is not that of its f there.

    Every convex f is above its tangent; with a sign error it is below. `align check` tests the whole divergence.
    """
    command = f"`align check {divergence.recipe_name}`"
    log_u = torch.linspace(-FAR, FAR, 13, dtype=torch.float64)
    zero = torch.zeros_like(log_u)
    try:
        divergence.f(torch.tensor([-1.0, 0.0, 1.0]))
        terms = torch.stack([divergence.f(log_u), -divergence.f(zero), -divergence.f_prime(zero) * torch.expm1(log_u)])
    except (Exception, SystemExit) as error:
        frames = own_frames(error)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else location(type(divergence))
        raise RecipeError(
            where,
            f"{place}: {type(error).__name__}: {error}\nf(log_u) takes a tensor of any shape and returns one like it: "
            f"write it with torch functions (log_u.exp(), not math.exp(log_u)); {command} tries all of it",
        ) from error
    above = terms.sum(0) / (terms.abs().sum(0) + 1e-300)
    wrong = ~(above >= -1e-9)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        is_at, tangent = terms[:2, at].sum().item(), -terms[2, at].item()
        raise RecipeError(
            where,
            f"{location(type(divergence))}: f must be convex in u = pi/ref, but f(u) - f(1) is {is_at:.3g} at log u = "
            f"{log_u[at].item():.3g}, where its tangent at u = 1 is {tangent:.3g}: check its sign, and that it is finite; "
            f"{command} tries all of it",
        )
    _compare_closed_forms(divergence, where, command)


def _compare_closed_forms(divergence: Divergence, where: str, command: str) -> None:
    # The grid leaves out 0, where f may have a kink.
    log_u = torch.linspace(-FAR, FAR, 12, dtype=torch.float64)
    for name in FORMS:
        if getattr(type(divergence), name) is getattr(Divergence, name):
            continue
        wanted, found = getattr(_ByF(divergence), name)(log_u), getattr(divergence, name)(log_u)
        if not torch.allclose(found.double(), wanted, rtol=1e-6, atol=1e-9):
            at = int((found.double() - wanted).abs().argmax())
            raise RecipeError(
                where,
                f"{location(type(divergence))}: `{name}` is {found[at].item():.4g} at log u = {log_u[at].item():.3g}, and f gives "
                f"{wanted[at].item():.4g}: an estimator would take the gradient of one and the value of the other. Correct it, or delete "
                f"it, so that it follows from f; {command} tests all of it",
            )


class _ByF(Divergence):
    """The same divergence with all forms derived from f."""

    def __init__(self, divergence: Divergence):
        self._divergence = divergence

    def f(self, log_u: torch.Tensor) -> torch.Tensor:
        return self._divergence.f(log_u)
