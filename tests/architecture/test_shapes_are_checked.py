"""Annotated shapes are held at every call of a test run, and in no other run."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import shapes
from jaxtyping import TypeCheckError

from align import core
from align.core.segments import segment_sum, suffix_sum

TESTS = Path(__file__).parents[1]
THREE, TWO = torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda: suffix_sum(torch.ones(3), TWO, THREE), "seq_ids"),
        (lambda: suffix_sum(torch.ones(3, 1), THREE, THREE), "x"),
        (lambda: segment_sum(torch.ones(3), THREE.float(), 1), "ids"),
    ],
    ids=["another length", "another rank", "another type"],
)
def test_a_tensor_that_does_not_fit_its_annotation_raises(call, parameter: str):
    with pytest.raises(TypeCheckError, match=f"parameter '{parameter}'"):
        call()


@pytest.mark.parametrize("module", shapes.CHECKED)
def test_what_is_checked_exists(module: str):
    assert find_spec(module) is not None


def test_all_of_core_is_checked_but_the_closed_forms():
    modules = {f"align.core.{path.stem}" for path in Path(core.__file__).parent.glob("[!_]*.py")}
    assert modules - set(shapes.CHECKED) == {"align.core.closed_forms"}


def fresh(code: str) -> str:
    """What the code prints in a Python of its own, in the folder of the tests."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_checks_nothing():
    code = """
import sys, torch
from align import core
from align.core.segments import segment_sum
print(segment_sum(torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 1), "beartype" in sys.modules)
"""
    assert fresh(code) == "tensor([3]) False"


@pytest.mark.parametrize("absent", ["jaxtyping", "beartype"])
def test_the_tests_of_a_gpu_need_neither_library(absent: str):
    code = f"""
import sys
sys.modules[{absent!r}] = None
from helpers import shapes
shapes.check()
print([type(finder).__module__ for finder in sys.meta_path if "jaxtyping" in type(finder).__module__])
"""
    assert fresh(code) == "[]"
