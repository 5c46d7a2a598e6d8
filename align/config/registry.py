"""Finds the class of a part by its name in a recipe.

`divergence: tsallis` is the file `align/divergences/tsallis.py`, imported on demand. A user's part is an installed entry point of
the group `align.divergences`, or `"package.module:Class"`, or `"./file.py:Class"`. Parts are always named by strings, so nothing is
pickled for a worker: the source of a local file is sent as text (`align.plugins`).

A part is a dataclass: its fields are its recipe keys. A class that does not derive from its room's contract gets the contract as a
base, so a plugin need not import align. For the kinds in `OF_FUNCTION`, a plain function can be a part too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import types

from align import plugins
from align.config.frozen import freeze, refuse_other_contract, refuse_unfinished
from align.config.outside_code import about_to_load
from align.config.renamed_keys import refuse_moved_methods, refuse_moved_word
from align.config.suggestions import did_you_mean
from align.config.tracebacks import own_traceback
from align.errors import RecipeError
from align.plugins.unannotated import refuse_unannotated

ROOMS = {
    "advantage": "align.advantages",
    "algorithm": "align.algorithms",
    "coefficient": "align.coefficients",
    "critic": "align.critics",
    "curriculum": "align.curricula",
    "divergence": "align.divergences",
    "engine": "align.engines",
    "environment": "align.environments",
    "estimator": "align.estimators",
    "likelihood": "align.likelihoods",
    "loss_weighting": "align.loss_weightings",
    "preference": "align.preferences",
    "reduction": "align.reductions",
    "reference": "align.references",
    "regularizer": "align.regularizers",
    "reward": "align.rewards",
    "shaping": "align.shapings",
    "surrogate": "align.surrogates",
    "task": "align.tasks",
    "weighting": "align.weightings",
    "writer": "align.writers",
}
OF_FUNCTION = {"reward": "align.rewards._function.reward_of"}
"""By kind: the function that converts a plain function to a part."""


def contract(kind: str) -> type:
    """The base class of every part of this kind: the class named like the kind in its room's `__init__`."""
    return getattr(importlib.import_module(ROOMS[kind]), kind.title().replace("_", ""))


@functools.cache
def shipped(kind: str) -> tuple[str, ...]:
    """Names of the parts that come with align, sorted: the files of the room."""
    room = importlib.import_module(ROOMS[kind])
    return tuple(sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")))


def installed(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Parts of other packages, by name: entry points of the group `align.<kind>s`."""
    return {e.name: e for e in _entry_points(tuple(sys.path), ROOMS[kind])}


@functools.lru_cache(maxsize=64)
def _entry_points(path: tuple[str, ...], group: str) -> importlib.metadata.EntryPoints:
    """Of every package on `sys.path`, which has this value. Reading them takes 18 ms."""
    return importlib.metadata.entry_points(group=group)


def name_of(cls: type) -> str:
    """The name of this class in a recipe: the file name of a shipped part, else `package.module:Class`."""
    room, _, word = cls.__module__.rpartition(".")
    return word if room in ROOMS.values() else f"{cls.__module__}:{cls.__qualname__}"


def resolve(kind: str, name: str, where: str) -> type:
    """The class called `name`. Raises RecipeError naming `where`, the known names and the nearest one."""
    if ":" in name:
        found = user_object(name, where)
    elif name in shipped(kind):
        found = _only_part(importlib.import_module(f"{ROOMS[kind]}.{name}"), contract(kind))
    elif name in installed(kind):
        about_to_load(f"{name} ({installed(kind)[name].value})", where)
        try:
            found = installed(kind)[name].load()
        except (Exception, SystemExit) as error:
            raise RecipeError(where, f"the plugin {name!r} failed to import\n{own_traceback(error)}") from error
    else:
        refuse_moved_word(kind, name, where)
        known = [*shipped(kind), *installed(kind)]
        hint = did_you_mean(name, known)
        raise RecipeError(
            where,
            f'no {kind} is called {name!r}; {hint}{"There" if hint else "there"} are: {", ".join(known)}, or your own as "./file.py:Class"',
        )
    return completed_part(kind, found, where)


def completed_part(kind: str, found: type | types.FunctionType, where: str) -> type:
    """A user's class or function, completed to a part of this kind. Raises RecipeError at `where`."""
    if inspect.isfunction(found):
        found = _of_function(kind, found, where)
    if not isinstance(found, type):
        raise RecipeError(where, f"names a {type(found).__name__}, not a class")
    refuse_unannotated(found, contract(kind), where)
    refuse_moved_methods(kind, found, where)
    refuse_other_contract(found, contract(kind), kind, where)
    part = _complete(found, kind, where)
    refuse_unfinished(part, kind, where)
    return part


def user_object(name: str, where: str) -> type | types.FunctionType:
    """The unchanged class or function that `file.py:Name` or `package.module:Name` names. Raises RecipeError at `where`."""
    spec, _, wanted = name.rpartition(":")
    if plugins.is_path(spec) or spec.partition(".")[0] != "align":
        about_to_load(name, where)
    module = _plugin(spec, where)
    found = getattr(module, wanted, None)
    if isinstance(found, type) or inspect.isfunction(found):
        return found
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__ and not n.startswith("_")}
    classes = ", ".join(sorted(n for n, v in own.items() if isinstance(v, type))) or "none"
    functions = ", ".join(sorted(n for n, v in own.items() if inspect.isfunction(v)))
    raise RecipeError(where, f"{spec} has no class {wanted}; it has: {classes}" + (f"; functions: {functions}" if functions else ""))


def _of_function(kind: str, found: types.FunctionType, where: str) -> type:
    place = f"{found.__code__.co_filename}:{found.__code__.co_firstlineno}"
    if kind not in OF_FUNCTION:
        raise RecipeError(
            where,
            f"{place}: {found.__name__} is a function; a {kind} is a class with "
            f"{', '.join(sorted(contract(kind).__abstractmethods__)) or 'the methods of its contract'}",
        )
    module, _, make = OF_FUNCTION[kind].rpartition(".")
    try:
        return getattr(importlib.import_module(module), make)(found)
    except TypeError as error:
        raise RecipeError(where, f"{place}: {error}") from error


def _only_part(module: types.ModuleType, base: type) -> type:
    parts = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]
    if len(parts) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, not {len(parts)}")
    return parts[0]


def _complete(found: type, kind: str, where: str) -> type:
    """Adds the contract as last base to a plugin's class that does not derive from it."""
    base = contract(kind)
    if not issubclass(found, base):
        body = {"__module__": found.__module__, "__doc__": found.__doc__}
        if not dataclasses.is_dataclass(found):
            body["__annotations__"] = inspect.get_annotations(found)
        try:
            found = type(found.__name__, (found, base), body)
        except TypeError as error:
            line = f"{inspect.getsourcefile(found)}:{inspect.getsourcelines(found)[1]}"
            raise RecipeError(where, f"{line}: {found.__name__} cannot derive from {base.__name__}: {error}") from error
    if found.__module__.partition(".")[0] != "align":
        return freeze(found, kind, where)
    if "__dataclass_fields__" in found.__dict__ or (dataclasses.is_dataclass(found) and not inspect.get_annotations(found)):
        return found
    return dataclasses.dataclass(frozen=True)(found)


def _plugin(spec: str, where: str) -> types.ModuleType:
    try:
        return plugins.load(spec, where) if plugins.is_path(spec) else importlib.import_module(spec)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        # The author of the plugin needs the traceback; other errors take one line.
        raise RecipeError(where, f"the plugin {spec} failed to import\n{own_traceback(error)}") from error
