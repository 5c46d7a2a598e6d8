"""What transformers raises for a `model.config` that describes no model, as one error of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from align.errors import RecipeError, UserError

LONGEST = 300
"""Characters of transformers' message: for an unknown type it lists every one."""


@contextmanager
def model_config_errors() -> Iterator[None]:
    """Raises RecipeError at `model.config` for an exception of the block, which builds a configuration or the model that it describes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each architecture has its own, such as KeyError for an activation and ZeroDivisionError for no heads
        said = " ".join(str(error).split()) or "(no message)"
        said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
        raise RecipeError("model.config", f"transformers cannot build it: {type(error).__name__}: {said}; correct the key") from error
