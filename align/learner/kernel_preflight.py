"""Checks before training that the head's backend can run the recipe's divergences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from align.config.schema import Recipe
from align.errors import UserError
from align_kernels.backends import Rows, rows


def stop_unless_ready(recipe: Recipe, device: torch.device) -> None:
    """Generates, compiles and checks every kernel of the recipe.

    Raises UserError that names `head.backend`, or the divergence whose kernels cannot be generated, compiled or launched, or are wrong.
    """
    try:
        backend = rows(recipe.head.backend, torch.empty(0, device=device))
    except ValueError as error:
        raise UserError(f"head.backend: {error}") from error
    with _explained("head.backend", backend):
        backend.stop_unless_right(torch.float32)
    for where, divergence in _over_the_vocabulary(recipe).items():
        with _explained(where, backend):
            backend.form(divergence, torch.float32)


@contextmanager
def _explained(where: str, backend: Rows) -> Iterator[None]:
    try:
        yield
    # A compiler and a driver have errors of every type.
    except Exception as error:
        ways = "compile or torch" if backend.name == "triton" else "torch"
        raise UserError(f"{where}: {_cause(error)}\nhead.backend: {ways} does without the {backend.name} kernels") from error


def _cause(error: Exception) -> str:
    """The message of the kernels' own checks; of any other error, the first line of its cause, since Triton quotes source code first."""
    if isinstance(error, ValueError):
        return str(error)
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    first, *_ = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {first}"


def _over_the_vocabulary(recipe: Recipe) -> dict[str, Any]:
    """The divergences that are summed over the vocabulary, by recipe key."""
    found = {f"regularizers.{name}.divergence": r.divergence for name, r in recipe.regularizers.items() if r.full_vocabulary}
    return found | {f"shapings.{name}": s.context_divergence for name, s in recipe.shapings.items() if s.context_divergence is not None}
