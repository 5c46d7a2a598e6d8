"""The hand-written pages name files that exist."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])(?:align|docs|recipes|examples|tests|kernels)/[\w./-]*\w")
LINKED = re.compile(r"\]\(([\w./-]+\.md)\)")


def missing(text: str, folder: Path) -> list[str]:
    """The paths in a page of this folder that lead nowhere."""
    named = [(path, ROOT / path) for path in NAMED.findall(text)] + [(path, folder / path) for path in LINKED.findall(text)]
    return [path for path, file in named if "NAME" not in path and "ROOM" not in path and not file.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path):
    assert missing(page.read_text(), page.parent) == []


def test_a_file_that_is_not_there_is_found():
    assert missing("`align/run_state.py`, `align/run/state.py`, [x](nowhere.md), align/divergences/NAME.py", ROOT) == [
        "align/run_state.py",
        "nowhere.md",
    ]


def test_a_module_is_named_with_its_folder():
    """A bare `state.py` is found by no reader."""
    assert set(re.findall(r"`(\w+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())) == {"__init__.py"}
