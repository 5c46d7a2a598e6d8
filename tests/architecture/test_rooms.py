"""The walls of the house: who may import whom, how long a file may be, and that every part says what it is."""

import ast
import dataclasses
import inspect
import itertools
from pathlib import Path

import pytest

from align.config import registry

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "align").rglob("*.py")) + sorted((ROOT / "kernels").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PARTS = [(kind, name) for kind in registry.ROOMS for name in registry.shipped(kind)]


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules a file imports, wherever in the file; with `top_level_only`, those not needed by a type checker alone."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


MATHS = [path for path in FILES if room(path) in ("core", "divergences", "parts.py")]


@pytest.mark.parametrize("path", MATHS, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_maths_imports_torch_only(path: Path):
    standard = {"__future__", "abc", "collections", "dataclasses", "math", "typing"}
    assert packages(path) <= standard | {"torch", "align", "align_kernels"}
    assert {name for name in imported(path) if name.startswith("align.")} <= {
        f"align.{r}" for r in ("divergences", "config.parts", "core.segments", "core.logprobs", "core.credit")}


@pytest.mark.parametrize(("package", "allowed"), [("ray", {"workers"}), ("vllm", {"engines", "weight_sync"}), ("wandb", {"writers"})])
def test_only_its_room_imports(package: str, allowed: set[str]):
    assert {room(p) for p in FILES if package in packages(p)} <= allowed


def test_kernels_never_import_align():
    assert not [p for p in FILES if p.is_relative_to(ROOT / "kernels") and "align" in packages(p)]


def test_nothing_imports_the_command_line():
    assert not [p for p in FILES if "align.cli" in imported(p)]


def test_no_room_is_imported_in_a_circle_at_start_up():
    """Every module imports first in a fresh order: cycles show as a name missing from a half-loaded module."""
    graph = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = {n for n in imported(path, top_level_only=True) if n and n.startswith("align.")}
    for start in graph:
        path, seen = [start], set()
        while path:
            node = path.pop()
            for target in graph.get(node, ()):
                assert target != start, f"{start} is imported in a circle through {node}"
                if target not in seen:
                    seen.add(target)
                    path.append(target)


@pytest.mark.parametrize("path", FILES + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_kernels_folder_does_not_shadow_a_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda x: x)
def test_every_part_says_what_it_is(kind: str, name: str):
    cls = registry.resolve(kind, name, "test")
    own = cls.__dict__.get("__doc__") or ""
    generated = own.startswith(f"{cls.__name__}(")
    assert own.strip() and not generated, f"{kind} {name} has no docstring"
    assert dataclasses.is_dataclass(cls) and issubclass(cls, registry.contract(kind))


def test_a_word_names_one_file_of_a_room():
    for kind, other in itertools.combinations(registry.ROOMS, 2):
        assert registry.contract(kind) is not registry.contract(other)
    assert all(inspect.getsourcefile(registry.resolve(kind, name, "test")).endswith(f"/{name}.py") for kind, name in PARTS)
