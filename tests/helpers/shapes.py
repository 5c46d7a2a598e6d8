"""Holds the annotated shapes of align at every call of a test run: to be asked for before anything of align is imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

CHECKED = (
    "align.core.agreement",
    "align.core.credit",
    "align.core.head_form",
    "align.core.links",
    "align.core.logprobs",
    "align.core.ranking",
    "align.core.returns",
    "align.core.reward_parts",
    "align.core.segments",
    "align.core.values",
    "align.estimators.top_k",
    "align.weightings",
    "align.advantages",
    "align.surrogates",
    "align.reductions",
    "align.preferences",
    "align.likelihoods",
    "align.loss_weightings",
    "align.shapings",
    "align.coefficients.beta_dpo",
    "align.coefficients.feasible",
    "align.critics",
    "align.curricula",
)
"""Modules, and what is in them.

Left out for their cost: `align.core.closed_forms`, `align.divergences` and the other estimators, elementwise functions of one tensor, and
`align.regularizers.composed`, most of whose calls are properties without a tensor. Left out too are contracts that the wrong value of a
plugin reaches (`Penalty`, the state of a `Coefficient`): there align itself says what is wrong, in a run as in a test.
"""


def check() -> None:
    """Where jaxtyping and beartype are installed: the tests of a GPU run with torch, triton and pytest alone."""
    if find_spec("jaxtyping") and find_spec("beartype"):
        from jaxtyping import install_import_hook

        install_import_hook(CHECKED, f"{__name__}.checked")


def checked(function: Callable) -> Callable:
    """The function with its annotations held at every call."""
    return _checker()(function)


@cache
def _checker() -> Callable:
    from beartype import BeartypeConf, FrozenDict, beartype

    from align.types import Columns, TokenBatch

    # A `float` may be an int, as a type checker has it. Tests hand a part the batch itself, which has every column.
    return beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Columns: TokenBatch})))
