"""Formulas of the parts of an objective, and whether a formula belongs to its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config.docstrings import format_part
from align.config.needed_columns import GROUPS
from align.config.parts import Part, Setting, location
from align.types import EARLY, REWARDED


class Formulated(Part):
    """Base of the contracts of the objective's parts: advantages, surrogates, reductions, preferences, likelihoods, algorithms."""

    needs = frozenset[str]()
    """Batch columns that it reads, from `types.EARLY` (see Weighting.needs); and `groups`, if a loss compares the answers to a prompt."""
    stated: tuple[str, ...] = ()
    """The methods that `formula` describes. The formula is not valid for a class that overrides one of them and not `formula`."""

    def formula(self) -> str:
        """Its maths in one line for `align explain`, with the values of its keys; for a loss, the maximised objective."""
        return f"[{not_stated(type(self))}]"

    def symbols(self) -> dict[str, str]:
        """The meaning of each symbol in `formula`."""
        return {}

    def misfit(self, setting: Setting) -> str | None:
        algorithm = setting.recipe.algorithm
        if (reason := unknown_needs(self)) is not None:
            return reason
        if "values" in self.needs and algorithm.critic is None:
            return (
                f"{format_part(self)} needs the values of a critic, and {algorithm.recipe_name} trains none: use ppo, or another "
                f"{setting.key}"
            )
        if REWARDED & self.needs and not algorithm.rewarded:
            return f"{format_part(self)} looks at rewards, and {algorithm.learns_from} have none: use another {setting.key}"
        return None


def unknown_needs(part: Formulated) -> str | None:
    """Why an entry of its `needs` is none, or None."""
    unknown = part.needs - EARLY - {GROUPS}
    if not unknown:
        return None
    return (
        f"{format_part(part)} needs {', '.join(sorted(unknown))}, which no column of a batch is called; there are: "
        f"{', '.join(sorted(EARLY))}; and {GROUPS}, for whole groups in a micro-batch"
    )


def formula(part: Formulated) -> str:
    """Its own formula; if it has none, or only that of a parent with other maths, the place of its code."""
    owner = unstated(part)
    return part.formula() if owner is None else f"[{not_stated(owner)}]"


def symbols(part: Formulated) -> dict[str, str]:
    """The meaning of the symbols in its own formula; empty if it has no formula."""
    return part.symbols() if unstated(part) is None else {}


def unstated(part: Formulated) -> type | None:
    """The class whose maths no formula describes, or None."""
    cls = type(part)
    says = definer(cls, "formula")
    if says is Formulated:  # a docstring is no formula: it may describe the minimised or the maximised function
        return cls
    order = cls.__mro__
    return next((owner for m in cls.stated if order.index(owner := definer(cls, m)) < order.index(says)), None)


def definer(cls: type, method: str) -> type:
    """The class whose method of this name an instance of `cls` runs."""
    return next(base for base in cls.__mro__ if method in vars(base))


def not_stated(owner: type) -> str:
    return f"its formula is not stated: see {place(owner)}"


def place(thing: Any) -> str:
    """`file:line`; the path is relative for files inside the working directory."""
    file, _, line = location(thing).rpartition(":")
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"
