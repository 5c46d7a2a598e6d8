"""Enforces that parts are frozen: the state of a run is in an object that the part makes, so that a recipe can run again."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any, TypeVar

from align.config.parts import location, ships
from align.errors import RecipeError, UserError

T = TypeVar("T")
RUNNING = {
    "critic": ("start", "align.critics.RunningCritic"),
    "engine": ("start", "align.engines.RunningEngine"),
    "environment": ("reset", "align.environments.RunningEnvironment"),
    "reference": ("start", "align.references.RunningReference"),
    "reward": ("start", "align.rewards.Reward"),
    "writer": ("open", "align.writers.RunningWriter"),
}
"""By kind: the method that makes the running object, and that object's contract."""
PLACES = {kind: f"in the object that `{method}` returns, an {name}" for kind, (method, name) in RUNNING.items()} | {
    "algorithm": "in the state, which `initial_state` begins and `update_state` replaces",
    "coefficient": "in the state, which `initial_state` begins and `update` replaces",
}
"""Where the parts of a kind keep their state."""


class PartIsFrozen(UserError, TypeError):
    """A part tried to change one of its attributes."""


def freeze(cls: type, kind: str, where: str) -> type:
    """A user's class as a frozen dataclass whose errors say where state belongs. Raises RecipeError for a mutable dataclass."""
    melted = [c for c in cls.__mro__ if "__dataclass_params__" in vars(c) and not c.__dataclass_params__.frozen]
    if melted:
        raise RecipeError(
            where,
            f"{melted[0].__name__} is a @dataclass that can be written to, and {_with_article(kind)} is one object for every "
            f"run: write @dataclass(frozen=True), or leave the line out. What changes is kept {_place(kind)}",
        )
    if inits := [c for c in cls.__mro__ if _has_own_init(c)]:
        raise RecipeError(
            where,
            f"{_line(vars(inits[0])['__init__'])}: {inits[0].__name__} has an __init__, which a part cannot have: annotate its keys in the "
            "class (`bonus: float = 1.0`), and check or complete them in __post_init__",
        )
    if "name" in inspect.get_annotations(cls):
        raise RecipeError(
            where, f"{location(cls)}: {cls.__name__} has a key `name`, which in a recipe is the name of the part: call it otherwise"
        )
    if not isinstance(getattr(cls, "needs", frozenset()), set | frozenset):
        raise RecipeError(
            where, f"{location(cls)}: needs of {cls.__name__} is {cls.needs!r:.60}: write a set of names, frozenset({{'rewards'}})"
        )
    if "__dataclass_fields__" not in vars(cls):
        try:
            # The keys of a base class are keys too, as if it were a dataclass.
            for base in reversed(cls.__mro__[1:]):
                own = inspect.get_annotations(base)
                completed = own == inspect.get_annotations(cls)  # the class itself, before it got the contract as a base
                if base.__module__ == cls.__module__ and own and not completed and "__dataclass_fields__" not in vars(base):
                    dataclasses.dataclass(frozen=True)(base)
            cls = dataclasses.dataclass(frozen=True)(cls)
        except (TypeError, ValueError) as error:
            raise RecipeError(where, f"{location(cls)}: the fields of {cls.__name__} are its keys, and {error}") from error

    def refuse(self: Any, name: str, *value: Any) -> None:
        raise PartIsFrozen(
            f"{type(self).__name__} writes to self.{name}: {_with_article(kind)} is frozen, one object for every run. What changes "
            f"is kept {_place(kind)}. A key that __post_init__ completes: object.__setattr__(self, {name!r}, ...)"
        )

    for method in ("__setattr__", "__delattr__"):
        setattr(cls, method, refuse)
    return cls


def refuse_other_contract(found: type, contract: type, kind: str, where: str) -> None:
    """Raises RecipeError for a user's method with a wrong signature, or one that belongs to the object that `start` returns."""
    own = {
        name: method
        for cls in reversed(found.__mro__)
        if cls.__module__.partition(".")[0] != "align" and cls is not object
        for name, method in vars(cls).items()
        if inspect.isfunction(method)
    }
    if kind in RUNNING:
        starts, path = RUNNING[kind]
        module, _, name = path.rpartition(".")
        of_running = vars(getattr(importlib.import_module(module), name)).keys() - dir(contract)
        for misplaced in (n for n in own if n in of_running):
            raise RecipeError(
                where,
                f"{_line(own[misplaced])}: `{misplaced}` belongs to the object that `{starts}` returns, of a class "
                f"of its own that derives from {path}: the {kind} itself is frozen and holds its keys alone",
            )
    for name, method in own.items():
        wanted = inspect.getattr_static(contract, name, None)
        if inspect.isfunction(wanted) and not _accepts_call(method, inspect.signature(wanted)):
            raise RecipeError(
                where,
                f"{_line(method)}: {name}{_without_annotations(inspect.signature(method))} of {found.__name__} must be "
                f"{name}{_without_annotations(inspect.signature(wanted))}; what changes in a run is kept {_place(kind)}",
            )


def refuse_unfinished(cls: type, kind: str, where: str) -> None:
    """Raises RecipeError for a part that lacks methods which its kind, or a class of its own, must define."""
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        wanted = ", ".join(f"{name}{_without_annotations(inspect.signature(getattr(cls, name)))}" for name in missing)
        line = f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
        raise RecipeError(where, f"{line}: {cls.__name__} is no {kind} yet: it lacks {wanted}")


def checked_instance(part: Any, made: Any, contract: type[T]) -> T:
    """`made`, which the part returned. Raises UserError if it is not an instance of `contract`."""
    if not isinstance(made, contract):
        wanted, *bases = (f"{cls.__module__}.{cls.__name__}" for cls in contract.__mro__)
        kind, starts = next((kind, method) for kind, (method, path) in RUNNING.items() if path in (wanted, *bases))
        place = _line(getattr(type(part), starts))
        raise UserError(
            f"{kind}: {place}: {type(part).__name__}.{starts} must return an object that derives from {wanted}, and returned "
            f"{made!r:.60}: the part is frozen, and the state of a run is in that object"
        )
    return made


def _has_own_init(cls: type) -> bool:
    """Whether a user's class has an `__init__` that no dataclass made."""
    own = vars(cls).get("__init__")
    return inspect.isfunction(own) and not ships(cls) and "__dataclass_fields__" not in vars(cls) and cls is not object


def _place(kind: str) -> str:
    return PLACES.get(kind, f"nowhere, for {_with_article(kind)} has no state")


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _accepts_call(method: Any, wanted: inspect.Signature) -> bool:
    """Whether a call that fits `wanted` fits the method."""
    positional = [p for p in wanted.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name: None for p in wanted.parameters.values() if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*positional, **by_name)
    except TypeError:
        return False
    return True


def _without_annotations(signature: inspect.Signature) -> str:
    """The signature without annotations and defaults."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def _line(method: Any) -> str:
    return f"{method.__code__.co_filename}:{method.__code__.co_firstlineno}"
