"""The walls of the house: who may import whom, how long a file may be, and that every part says what it is."""

import ast
import builtins
import dataclasses
import inspect
import itertools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from align.config import registry

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "align").rglob("*.py")) + sorted((ROOT / "kernels").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = {"align": ROOT, "kernels": ROOT / "kernels"}
"""By folder of the repository: what modules are named from."""
MODULES = {".".join(p.relative_to(SOURCES[p.relative_to(ROOT).parts[0]]).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
PARTS = [(kind, name) for kind in registry.ROOMS for name in registry.shipped(kind)]


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it and for a type checker alone too: `from package import module` is the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {inner if (inner := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


@pytest.mark.parametrize(
    ("room_name", "may_import"), [("core", ("align.core",)), ("divergences", ("align.core", "align.divergences", "align.config.parts"))]
)
def test_the_maths_imports_torch_and_its_shapes_only(room_name: str, may_import: tuple[str, ...]):
    standard = {"__future__", "abc", "collections", "dataclasses", "functools", "math", "typing"}
    for path in (p for p in FILES if room(p) == room_name):
        assert packages(path) <= standard | {"torch", "jaxtyping", "align", "align_kernels"}, path
        assert not [name for name in imported(path) if name.startswith("align.") and not name.startswith(may_import)], path


@pytest.mark.parametrize(("package", "allowed"), [("ray", {"workers"}), ("vllm", {"engines", "weight_sync"}), ("wandb", {"writers"})])
def test_only_its_room_imports(package: str, allowed: set[str]):
    assert {room(p) for p in FILES if package in packages(p)} <= allowed


def test_nothing_is_unpickled():
    """A folder that a stranger sends must not run code: torch.load and torch.distributed.checkpoint are pickles too."""
    loads = re.compile(r"^\s*(import|from) (pickle|dill|cloudpickle|torch\.distributed\.checkpoint)\b|torch\.load\(", re.MULTILINE)
    assert loads.search("import pickle") and loads.search("    from torch.distributed.checkpoint import save")
    assert not [p for p in FILES if loads.search(p.read_text())]


def test_kernels_never_import_align():
    assert not [p for p in FILES if p.is_relative_to(ROOT / "kernels") and "align" in packages(p)]


def test_nothing_imports_the_command_line():
    assert not [p for p in FILES if "align.cli" in imported(p)]


def test_no_modules_import_each_other():
    TopologicalSorter({module: imported(path) & MODULES.keys() for module, path in MODULES.items()}).prepare()


@pytest.mark.parametrize(
    ("a", "line_a", "b", "line_b"),
    [
        ("align.learner.learner", "from align.learner import optimizer", "align.learner.optimizer", "from align.learner import learner"),
        ("align_kernels.parallel", "import align_kernels.chunk", "align_kernels.chunk", "from align_kernels import parallel"),
    ],
)
def test_a_planted_circle_is_seen(a, line_a, b, line_b, tmp_path):
    graph = {}
    for module, line in ((a, line_a), (b, line_b)):
        (tmp_path / "planted.py").write_text(f"if TYPE_CHECKING:\n    {line}\n")
        graph[module] = imported(tmp_path / "planted.py")
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", FILES + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path: Path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_kernels_folder_does_not_shadow_a_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_no_part_hides_a_builtin_that_its_room_uses():
    """Importing `align.rewards.sum` makes `sum` in `align/rewards/__init__.py` that module."""
    for kind in registry.ROOMS:
        contract = Path(inspect.getsourcefile(registry.contract(kind)))
        used = {node.id for node in ast.walk(ast.parse(contract.read_text())) if isinstance(node, ast.Name)}
        assert not used & vars(builtins).keys() & {file.stem for file in contract.parent.glob("*.py")}, contract


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
