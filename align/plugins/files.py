"""Collects the files of a plugin: the one that a recipe names, its imports, and every file of the packages these are in."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from align.errors import RecipeError

MOST_FILES, MOST_BYTES = 200, 5_000_000
"""Limits of one plugin, because every worker gets its files."""
NEVER = {"align", "align_kernels"}
"""Never taken from a plugin's folder: a second copy of a contract would be another class."""
DOT = "%2E"
"""Replaces a dot of the file name in a module's name."""


class File(NamedTuple):
    path: str
    text: str

    @property
    def is_package(self) -> bool:
        return os.path.basename(self.path) == "__init__.py"


class Modules(Protocol):
    """Modules by their dotted path from the folder where imports start."""

    def has(self, module: str) -> bool:
        """Whether there is such a module, or a package with an `__init__.py`."""
        ...

    def is_folder(self, module: str) -> bool:
        """Whether there is a folder of that name with modules in it."""
        ...


def sibling(name: str, importer: str, is_package: bool, modules: Modules) -> str | None:
    """The plugin's module that `import name` means in the module `importer`; None: Python's own search decides.

    As for a script, a module in the folder where imports start shadows an installed module, but a file does not import itself, so
    `json.py` may import json. Siblings inside a package, and folders without `__init__.py`, come last.
    """
    top = name.partition(".")[0]
    if top in NEVER:
        return None
    if modules.has(top) and (is_package or top != importer):
        return name
    package = importer if is_package else importer.rpartition(".")[0]
    if package and f"{package}.{top}" != importer and modules.has(f"{package}.{top}"):
        return None if _installed(top) else f"{package}.{name}"
    return name if not modules.has(top) and modules.is_folder(top) and not _installed(top) else None


def _installed(top: str) -> bool:
    if top in sys.modules:
        return True
    spec = importlib.util.find_spec(top)
    return spec is not None and spec.origin is not None  # a folder in the working directory is a namespace, without origin


class _Disk(NamedTuple):
    root: Path

    def find(self, module: str) -> Path | None:
        path = self.root.joinpath(*(part.replace(DOT, ".") for part in module.split(".")))
        candidates = path / "__init__.py", path.with_name(f"{path.name}.py"), path
        return next((file for file in candidates if file.suffix == ".py" and file.is_file()), None)

    def has(self, module: str) -> bool:
        return self.find(module) is not None

    def is_folder(self, module: str) -> bool:
        return next(self.root.joinpath(*module.split(".")).rglob("*.py"), None) is not None

    def module(self, file: Path) -> str:
        parts = file.with_suffix("").relative_to(self.root).parts
        return ".".join(part.replace(".", DOT) for part in (parts[:-1] if parts[-1] == "__init__" else parts))


def collect(file: Path, where: str) -> tuple[str, str, dict[str, File]]:
    """The folder where imports start, the module of `file` in it, and every module of the plugin by its dotted path.

    Raises RecipeError at `where` for a file that cannot be read, and for more than MOST_FILES or MOST_BYTES.
    """
    root = next(folder for folder in file.parents if not (folder / "__init__.py").is_file())
    collected = _Collected(_Disk(root), where)
    module = collected.disk.module(file)
    if collected.disk.find(module) != file:
        module += f"{DOT}py"  # beside a package of the same name
    collected.reach(module)
    while collected.waiting:
        collected.follow(collected.waiting.pop())
    return str(root), module, collected.files


class _Collected:
    def __init__(self, disk: _Disk, where: str):
        self.disk, self.where = disk, where
        self.files: dict[str, File] = {}
        self.waiting: list[str] = []
        self._whole: set[str] = set()
        self._bytes = 0

    def reach(self, module: str) -> None:
        """Add an imported module, the packages that contain it, and every module of the innermost package."""
        names = module.split(".")
        for depth in range(1, len(names) + 1):
            self._add(".".join(names[:depth]))
        package = module if self.files[module].is_package else module.rpartition(".")[0]
        if package in self.files and package not in self._whole:
            self._whole.add(package)
            for inside in _python_files(Path(self.files[package].path).parent):
                self._add(self.disk.module(inside))

    def follow(self, module: str) -> None:
        """Add everything that a module imports, also inside functions."""
        file = self.files[module]
        package = module if file.is_package else module.rpartition(".")[0]
        for level, name, names in _imports(file.text):
            if level:
                steps = package.split(".") if package else []
                base = ".".join([*steps[: len(steps) - level + 1], *([name] if name else [])]) if level <= len(steps) + 1 else None
            else:
                base = sibling(name, module, file.is_package, self.disk)
            if base is not None:
                for target in (base, *(f"{base}.{n}".lstrip(".") for n in names)):
                    while target and not self.disk.has(target):  # a name in a module, or a module that is missing from its package
                        target = target.rpartition(".")[0]
                    if target:
                        self.reach(target)

    def _add(self, module: str) -> None:
        path = self.disk.find(module)
        if path is None or module in self.files:
            return
        try:
            with tokenize.open(path) as opened:
                text = opened.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise RecipeError(self.where, f"the plugin file {path} cannot be read: {error}") from error
        self.files[module] = File(str(path), text)
        self.waiting.append(module)
        self._bytes += len(text.encode("utf-8", "replace"))
        if len(self.files) > MOST_FILES or self._bytes > MOST_BYTES:
            raise RecipeError(
                self.where,
                f"the plugin in {self.disk.root} is too large to send to every worker: its imports and packages come to more "
                f"than {MOST_FILES} files or {MOST_BYTES // 1_000_000} MB, {path} among them; put it into a folder of its own, or install "
                "its package on every machine and name it as package.module:Class",
            )


def _python_files(folder: Path) -> Iterator[Path]:
    """The importable files: none in hidden folders, nor in a virtual environment's site-packages."""
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name != "__pycache__")
        for name in sorted(names):
            file = Path(path, name)
            if file.suffix == ".py" and file.stem.isidentifier() and file.is_file():
                yield file


@lru_cache(maxsize=1024)
def _imports(text: str) -> Sequence[tuple[int, str, tuple[str, ...]]]:
    """(level, module, imported names) of every import in a source; empty if it is not valid Python, which its import reports."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)
