"""The base class of the parts of every room, and the setting in which a part may refuse a recipe."""

from __future__ import annotations

import inspect
from dataclasses import Field, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The recipe and key of a part."""

    recipe: Any
    """The Recipe, with every part built. `align audit` puts a single part into a default recipe."""
    where: str
    """The dotted key of the part: `regularizers.kl.estimator`."""
    regularizer: Any = None
    """The Regularizer that is or contains the part; None for other parts."""

    @property
    def key(self) -> str:
        """The last word of `where`."""
        return self.where.rpartition(".")[2]

    @property
    def samples(self) -> bool:
        """Whether batches hold the policy's own rollouts, not demonstrations or rankings."""
        return self.recipe.algorithm.samples

    @property
    def on_policy(self) -> bool:
        """Whether pi equals pi_old at each gradient of the regularizer (or else of the algorithm): each batch serves one update."""
        algorithm = self.recipe.algorithm
        return algorithm.on_policy if self.regularizer is None else algorithm.penalises_on_policy(self.regularizer.placement)


class Part:
    """The base class of every contract."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    """Every part is a dataclass; the registry converts other classes."""
    recipe_name: str
    """Its name in a recipe: a word, or the path of a plugin."""

    def refuse(self, setting: Setting) -> str | None:
        """Why the part cannot be used here as configured, with the remedy, in one sentence; None if it can.

        The recipe is then refused at the part's key. `refuse` of the parts inside it has returned None before.
        """
        return None

    def misfit(self, setting: Setting) -> str | None:
        """Like `refuse`, but a rule of the room for all its parts, based on class attributes such as `needs`. Do not override it."""
        return None


def ships(cls: type) -> bool:
    """Whether a class comes with align."""
    return cls.__module__.partition(".")[0] == "align"


def location(cls: Any) -> str:
    """`file:line` of a class or function, for `explain` and error messages; its module where there is no source (a notebook)."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return getattr(inspect.getmodule(cls), "__file__", cls.__module__)
