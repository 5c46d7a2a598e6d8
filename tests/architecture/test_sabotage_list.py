"""The list of mutants stays true: each still applies, to exactly one place, and its tests exist."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "sabotage"))

from mutants import MUTANTS, Mutant  # noqa: E402


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_applies_once_and_is_a_program(mutant: Mutant):
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    changed = source.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    assert all((ROOT / "tests" / test.partition("::")[0]).exists() for test in mutant.tests.split())


def test_there_are_enough_and_each_has_a_name_of_its_own():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 40
