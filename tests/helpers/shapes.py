"""Holds the annotated shapes of align at every call of a test run: to be asked for before anything of align is imported."""

from __future__ import annotations

from importlib.util import find_spec

CHECKED = ("align.core",)
"""Modules, and what is in them."""
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
"""A `float` may be an int, as a type checker has it."""


def check() -> None:
    """Where jaxtyping and beartype are installed: the tests of a GPU run with torch, triton and pytest alone."""
    if find_spec("jaxtyping") and find_spec("beartype"):
        from jaxtyping import install_import_hook

        install_import_hook(CHECKED, CHECKER)
