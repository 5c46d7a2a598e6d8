"""From the word in a recipe to the part it names.

`divergence: tsallis` is the file `align/divergences/tsallis.py`, imported when asked for. A user's part is an installed
entry point of the group `align.divergences`, or `"package.module:Class"`, or `"./file.py:Class"`. Parts are named by strings
everywhere, so nothing is pickled on the way to a worker: a local file's source travels as text (`sources`, `install`).

A part is a dataclass: its fields are its recipe keys. A class that does not derive from its room's contract is completed
by it, so a plugin need not import align.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import types
from pathlib import Path

from align.errors import RecipeError
from align.frames import own_traceback

ROOMS = {
    "algorithm": "align.algorithms",
    "coefficient": "align.coefficients",
    "critic": "align.critics",
    "divergence": "align.divergences",
    "engine": "align.engines",
    "estimator": "align.estimators",
    "reference": "align.references",
    "regularizer": "align.regularizers",
    "reward": "align.rewards",
    "shaping": "align.shapings",
    "task": "align.tasks",
    "weighting": "align.weightings",
    "writer": "align.writers",
}

_sources: dict[str, str] = {}
_modules: dict[str, types.ModuleType] = {}


def contract(kind: str) -> type:
    """The class every part of this kind satisfies: the one named like the kind in its room's `__init__`."""
    return getattr(importlib.import_module(ROOMS[kind]), kind.capitalize())


def shipped(kind: str) -> list[str]:
    """Names of the parts that come with align: the files of the room."""
    room = importlib.import_module(ROOMS[kind])
    return sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_"))


def installed(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Parts other packages bring, by name: entry points of the group `align.<kind>s`."""
    return {e.name: e for e in importlib.metadata.entry_points(group=ROOMS[kind])}


def sources() -> dict[str, str]:
    """Every local plugin file loaded so far, path -> text: what a worker needs to load the same parts."""
    return dict(_sources)


def install(files: dict[str, str]) -> None:
    """Make these plugin sources loadable here, whether or not the files exist on this machine."""
    _sources.update(files)


def resolve(kind: str, name: str, where: str) -> type:
    """The class called `name`. Raises RecipeError naming `where`, the known names and the nearest one."""
    if ":" in name:
        module_name, _, class_name = name.rpartition(":")
        module = _plugin(module_name, where)
        found = getattr(module, class_name, None)
        if not isinstance(found, type):
            classes = sorted(n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__)
            raise RecipeError(where, f"{module_name} has no class {class_name}; it has: {', '.join(classes) or 'none'}")
    elif name in shipped(kind):
        found = _only_part(importlib.import_module(f"{ROOMS[kind]}.{name}"), contract(kind))
    elif name in installed(kind):
        try:
            found = installed(kind)[name].load()
        except Exception as error:
            raise RecipeError(where, f"the plugin {name!r} failed to import\n{own_traceback(error)}") from error
    else:
        known = [*shipped(kind), *installed(kind)]
        raise RecipeError(where, f"no {kind} is called {name!r}{_nearest(name, known)}; there are: {', '.join(known)}, "
                          f'or your own as "./file.py:Class"')
    return _complete(found, contract(kind))


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _only_part(module: types.ModuleType, base: type) -> type:
    parts = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, base) and v.__module__ == module.__name__]
    if len(parts) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, not {len(parts)}")
    return parts[0]


def _complete(found: type, base: type) -> type:
    """A plugin that does not derive from its contract gets the contract's methods behind its own."""
    if not issubclass(found, base):
        body = {"__module__": found.__module__, "__doc__": found.__doc__}
        if not dataclasses.is_dataclass(found):
            body["__annotations__"] = inspect.get_annotations(found)
        found = type(found.__name__, (found, base), body)
    if "__dataclass_fields__" in found.__dict__ or (dataclasses.is_dataclass(found) and not inspect.get_annotations(found)):
        return found
    frozen = dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen
    return dataclasses.dataclass(frozen=frozen)(found)


def _plugin(spec: str, where: str) -> types.ModuleType:
    try:
        if spec.endswith(".py"):
            return _load_file(spec, where)
        return importlib.import_module(spec)
    except RecipeError:
        raise
    except Exception as error:
        # The author of the plugin needs the traceback; everyone else's mistakes are told in one line.
        raise RecipeError(where, f"the plugin {spec} failed to import\n{own_traceback(error)}") from error


def _load_file(path: str, where: str) -> types.ModuleType:
    if path in _modules:
        return _modules[path]
    if path not in _sources:
        file = Path(path)
        if not file.is_file():
            raise RecipeError(where, f"there is no plugin file {path} (a relative path starts at the recipe's folder, "
                              "or at the working directory when it is given on the command line)")
        _sources[path] = file.read_text()
    name = f"align_plugin_{Path(path).stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(_sources[path], path, "exec"), module.__dict__)
    _modules[path] = module
    return module
