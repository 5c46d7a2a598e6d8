"""What the parts of every room have in common: each may refuse the recipe that it stands in."""

from __future__ import annotations

from dataclasses import Field, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a part stands."""

    recipe: Any
    """The Recipe, with every part built. A part that `align audit` judges by itself has a recipe of defaults around it."""
    where: str
    """The dotted key of the part: `regularizers.kl.estimator`."""
    regularizer: Any = None
    """The Regularizer that the part is, or belongs to; None outside of one."""

    @property
    def key(self) -> str:
        """The last word of `where`."""
        return self.where.rpartition(".")[2]

    @property
    def samples(self) -> bool:
        """A batch holds the policy's own rollouts, not demonstrations or rankings."""
        return self.recipe.algorithm.samples

    @property
    def on_policy(self) -> bool:
        """pi is pi_old whenever the regularizer (or, outside of one, the algorithm) is differentiated: each batch serves one update."""
        algorithm = self.recipe.algorithm
        return algorithm.on_policy if self.regularizer is None else algorithm.penalises_on_policy(self.regularizer.placement)


class Part:
    """What every contract inherits."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    """Every part is a dataclass; the registry makes one of a class that is none yet."""
    recipe_name: str
    """The word, or the place of a plugin, by which a recipe names it."""

    def refuse(self, setting: Setting) -> str | None:
        """Why the part cannot be used here as configured, with the remedy, in one sentence; None where it can.

        The recipe is then refused at the part's key. The parts inside it have been asked before, and refused nothing.
        """
        return None

    def misfit(self, setting: Setting) -> str | None:
        """The same, by what its class states (`needs` and the like): a rule of the room for all its parts, which no part overrides."""
        return None
