"""The modules of a plugin, as a private package in memory. Only these modules can import each other by plain names."""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.abc
import linecache
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, resolve_name

from align.plugins.files import File, sibling

PREFIX = "align_plugin_"
MOVED = {
    "align.weight_sync.packing": "align.weight_sync.flattening, and its `unpack` is `unflatten`",
    "align.core.credit.sequence_log_ratio": "align.core.credit.sequence_sum",
}
"""Old names of what plugins import from align, and the new ones."""


@dataclass
class Plugin:
    """The files of one folder in one state, as plain text, so that it can be sent to a worker."""

    package: str
    """The private package name of its modules, the same in every process."""
    root: str
    """The folder where their imports start."""
    files: dict[str, File] = field(default_factory=dict)
    """By dotted path from there."""
    named: dict[str, str] = field(default_factory=dict)
    """Modules by their spec in recipes."""
    reached: dict[str, dict[str, File]] = field(default_factory=dict)
    """By named module, the files that it needs."""

    @classmethod
    def of(cls, root: str, module: str, files: Mapping[str, File]) -> Plugin:
        state = repr((root, module, sorted(files.items())))
        plugin = cls(f"{PREFIX}{hashlib.sha256(state.encode('utf-8', 'replace')).hexdigest()[:12]}", root)
        plugin.open()
        return plugin

    def fits(self, module: str, files: Mapping[str, File]) -> bool:
        """Whether `module`, which needs these files, can join this plugin: no common file has changed."""
        return self.reached.get(module, files) == files and all(self.files.get(name, file) == file for name, file in files.items())

    def take(self, spec: str, module: str, files: Mapping[str, File]) -> None:
        self.named[spec] = module
        self.reached[module] = dict(files)
        self.files |= files

    def open(self) -> None:
        """Make its modules importable under the private name."""
        if self.package not in sys.modules:
            spec = ModuleSpec(self.package, None, is_package=True)
            spec.submodule_search_locations = [self.package]
            sys.modules[self.package] = module_from_spec(spec)

    def has(self, module: str) -> bool:
        return module in self.files

    def is_folder(self, module: str) -> bool:
        return any(name.startswith(f"{module}.") for name in self.files)

    def places(self, module: str) -> str:
        """The possible files of a module of this name, for an error message."""
        path = "/".join([self.root.rstrip("/"), *module.split(".")])
        return f"{path}.py and {path}/__init__.py"


packages: dict[str, Plugin] = {}
"""Plugins by private name; the one used last is at the end."""


def show_lines(plugin: Plugin) -> None:
    """Make tracebacks and `inspect` show the loaded source, even without the file or after an edit."""
    for path, text in plugin.files.values():
        # Without a modification time linecache does not check the disk.
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)


class _Finder(importlib.abc.PathEntryFinder):
    """Finds the modules in one folder of a plugin, for `import` and for `pkgutil.iter_modules`."""

    def __init__(self, place: str):
        """`place`: `PACKAGE/folder/...`, an entry of some `__path__`. Raises ImportError for any other."""
        package, _, folder = place.partition("/")
        if package not in packages:
            raise ImportError(f"{place} is no plugin's")
        self.package, self.folder = package, folder.replace("/", ".")

    def find_spec(self, fullname: str, target: types.ModuleType | None = None) -> ModuleSpec | None:
        plugin, module = packages[self.package], fullname.partition(".")[2]
        file = plugin.files.get(module)
        if file is None and not plugin.is_folder(module):
            return None
        is_package = file is None or file.is_package
        loader = None if file is None else _Loader(plugin, module, file)
        spec = ModuleSpec(fullname, loader, origin=None if file is None else file.path, is_package=is_package)
        spec.has_location = file is not None
        if is_package:
            spec.submodule_search_locations = ["/".join([self.package, *module.split(".")])]
        return spec

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        start = f"{self.folder}." if self.folder else ""
        for name, file in sorted(packages[self.package].files.items()):
            inner = name.removeprefix(start)
            if name.startswith(start) and inner and "." not in inner:
                yield prefix + inner, file.is_package


sys.path_hooks.append(_Finder)


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, plugin: Plugin, module: str, file: File):
        self.plugin, self.module, self.file = plugin, module, file

    def get_source(self, fullname: str) -> str:
        return self.file.text

    def is_package(self, fullname: str) -> bool:
        return self.file.is_package

    def exec_module(self, module: types.ModuleType) -> None:
        # An import statement calls `__import__` of its module's builtins, also inside a function that runs later.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importing(self.plugin, self.module, self.file.is_package)}
        exec(compile(self.file.text, self.file.path, "exec", dont_inherit=True), module.__dict__)


def _importing(plugin: Plugin, importer: str, is_package: bool) -> Callable[..., types.ModuleType]:
    """`__import__` for one module of a plugin: its siblings first, by their private names."""

    def import_(
        name: str, globals: Mapping | None = None, locals: Mapping | None = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> types.ModuleType:
        own = sibling(name, importer, is_package, plugin) if level == 0 else None
        if level:
            package = f"{plugin.package}.{importer}" if is_package else f"{plugin.package}.{importer}".rpartition(".")[0]
            wanted = resolve_name("." * level + name, package)
        else:
            wanted = name if own is None else f"{plugin.package}.{own}"
        _refuse_moved(wanted, fromlist or ())
        try:
            found = builtins.__import__(wanted, globals, locals, fromlist, 0)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{wanted}.".startswith(f"{error.name}."):
                error.msg = _missing(plugin, name, level, error.name)
            raise
        if not wanted.startswith(PREFIX):
            return found
        if fromlist:
            _has_all(plugin, found, fromlist, "." * level + name)
            return found
        # `import a.b` binds a.
        return sys.modules[wanted[: len(wanted) - len(name) + len(name.partition(".")[0])]]

    return import_


def _refuse_moved(module: str, names: Sequence[str]) -> None:
    """Raises ImportError with the new name for a module of align, or a name in one, that has another."""
    for name in (module, *(f"{module}.{name}" for name in names)):
        if name in MOVED:
            raise ImportError(f"{name} is called {MOVED[name]}", name=name)


def _missing(plugin: Plugin, name: str, level: int, missing: str) -> str:
    private = missing.startswith(f"{plugin.package}.")
    places = plugin.places(missing.partition(".")[2] if private else missing)
    return f"No module named {'.' * level + name!r}; looked for {places}" + ("" if private else ", and for an installed package")


def _has_all(plugin: Plugin, module: types.ModuleType, names: Sequence[str], written: str) -> None:
    """Raises ImportError, with file paths instead of private names, for a name that `from module import names` would not find."""
    for name in names:
        if name == "*" or hasattr(module, name) or f"{module.__name__}.{name}" in sys.modules:
            continue
        inside, spec = module.__name__.partition(".")[2], module.__spec__
        problem = [] if spec is None or spec.origin is None else [f"{spec.origin} has not defined it"]
        if spec is not None and spec.submodule_search_locations is not None:
            problem.append(f"looked for {plugin.places(f'{inside}.{name}'.lstrip('.'))}")
        raise ImportError(f"cannot import name {name!r} from {written!r}: {'; '.join(problem)}", name=module.__name__)
