"""What a part of the objective says of its maths, and whether what it says is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.config.docstrings import format_part
from align.config.nodes import location
from align.config.parts import Part, Setting
from align.types import REWARDED


class Formulated(Part):
    """What every part of an objective has: the contracts of advantages, surrogates, reductions, preferences, likelihoods, algorithms."""

    needs = frozenset[str]()
    """What it reads of the batch, of `types.EARLY` (see Weighting.needs)."""
    stated: tuple[str, ...] = ()
    """The methods whose maths `formula` writes down. A class that overrides one and not `formula` has not stated its own."""

    def formula(self) -> str:
        """Its maths in one line, as `align explain` writes it, with the values of its keys in it; of a loss, what is maximised."""
        return f"[{not_stated(type(self))}]"

    def symbols(self) -> dict[str, str]:
        """What the symbols of `formula` stand for under these keys."""
        return {}

    def misfit(self, setting: Setting) -> str | None:
        algorithm = setting.recipe.algorithm
        if "values" in self.needs and algorithm.critic is None:
            return (
                f"{format_part(self)} needs the values of a critic, and {algorithm.recipe_name} trains none: use ppo, or another "
                f"{setting.key}"
            )
        if REWARDED & self.needs and not algorithm.samples:
            return f"{format_part(self)} looks at rewards, and {algorithm.learns_from} have none: use another {setting.key}"
        return None


def formula(part: Formulated) -> str:
    """Its own formula; where it has none, or that of a parent with other maths, where to read the code instead."""
    owner = unstated(part)
    return part.formula() if owner is None else f"[{not_stated(owner)}]"


def symbols(part: Formulated) -> dict[str, str]:
    """What its own formula's symbols stand for; empty where that is not stated."""
    return part.symbols() if unstated(part) is None else {}


def unstated(part: Formulated) -> type | None:
    """The class whose maths no formula states, or None."""
    cls = type(part)
    says = definer(cls, "formula")
    if says is Formulated:  # a docstring says what is minimised as often as what is maximised
        return cls
    order = cls.__mro__
    return next((owner for m in cls.stated if order.index(owner := definer(cls, m)) < order.index(says)), None)


def definer(cls: type, method: str) -> type:
    """The class whose method of this name an instance of `cls` runs."""
    return next(base for base in cls.__mro__ if method in vars(base))


def not_stated(owner: type) -> str:
    return f"its formula is not stated: see {place(owner)}"


def place(thing: Any) -> str:
    """`file:line`, the file from the working directory where it is inside."""
    file, _, line = location(thing).rpartition(":")
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"
