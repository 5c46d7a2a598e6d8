"""align: aligns language models, with the regularizer as a first-class object.

`align.load` reads a recipe, `align.explain` says what it optimises, `align.audit` compares its regularizers with exact answers,
`align.train` runs it and `align.evaluate` measures what came out. `align.regularizer` and `align.penalty` are for a training loop of
your own: the same regularizers, on plain tensors. docs/python.md has an example of each.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align.audit import Certificate
    from align.audit.targets import audit
    from align.config.recipes import load
    from align.config.schema import Recipe
    from align.errors import RecipeError, UserError
    from align.inspect.explain import explain
    from align.integrations.penalties import penalty, regularizer
    from align.regularizers import Penalty
    from align.regularizers.composed import Composed
    from align.run.evaluation import evaluate
    from align.train import train

_HOMES = {
    "Certificate": "align.audit",
    "Composed": "align.regularizers.composed",
    "Penalty": "align.regularizers",
    "Recipe": "align.config.schema",
    "RecipeError": "align.errors",
    "UserError": "align.errors",
    "audit": "align.audit.targets",
    "evaluate": "align.run.evaluation",
    "explain": "align.inspect.explain",
    "load": "align.config.recipes",
    "penalty": "align.integrations.penalties",
    "regularizer": "align.integrations.penalties",
    "train": "align.train",
}
"""Where each public name is defined: imported when it is asked for, since torch and transformers take seconds."""

__all__ = [
    "Certificate",
    "Composed",
    "Penalty",
    "Recipe",
    "RecipeError",
    "UserError",
    "audit",
    "evaluate",
    "explain",
    "load",
    "penalty",
    "regularizer",
    "train",
]


class _Package(ModuleType):
    """Python binds a submodule in its package when it is first imported: that of `align.train` must not hide the function `train`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
