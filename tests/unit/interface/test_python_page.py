"""docs/python.md: each of its snippets runs as it stands, in order, and prints what the page shows."""

import doctest
import io
import re
from pathlib import Path

from helpers.paths import ROOT

import align

PAGE = (ROOT / "docs" / "python.md").read_text()


def test_its_snippets_are_what_happens(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", None, 0)
    assert len(test.examples) > 20
    report = io.StringIO()
    assert not doctest.DocTestRunner().run(test, out=report.write).failed, report.getvalue()


def test_it_names_every_function():
    functions = {name for name in align.__all__ if name[0].islower()}
    assert set(re.findall(r"^\| `align\.(\w+)\(", PAGE, re.MULTILINE)) == functions
