"""A plugin is read again where a recipe is built again; what was built before stays as it was."""

import inspect
import linecache
import pickle
import traceback

import pytest
from helpers.plugins.several import PROMPT, refusal, reward, score, write

from align import plugins
from align.config import parts
from align.config.nodes import build_part, plugins_of


def test_an_edited_file_is_read_again_and_what_was_built_stays(tmp_path):
    spec = f"{write(tmp_path, mine=reward('helper.x', 'import helper'), helper='x = 1.0')}/mine.py:Mine"
    first, same = build_part("reward", spec, ""), build_part("reward", spec, "")
    assert type(first).score is type(same).score
    write(tmp_path, helper="x = 2.0")
    second = build_part("reward", spec, "")
    write(tmp_path, mine=reward("helper.x + 10", "# a line more\nimport helper"))
    third = build_part("reward", spec, "")
    assert [part.score(PROMPT, "") for part in (first, second, third)] == [1.0, 2.0, 12.0]
    sent = [plugins_of(part)[0].files["helper"].text for part in (first, second, third)]
    assert sent == ["x = 1.0", "x = 2.0", "x = 2.0"]
    assert "helper.x + 10" in inspect.getsource(type(third).score) and parts.location(type(third)) == f"{tmp_path}/mine.py:3"
    write(tmp_path, mine=reward("helper.x", "import helper"))
    assert type(build_part("reward", spec, "")).score is type(second).score


def test_tracebacks_show_the_lines_that_ran(tmp_path):
    spec = f"{write(tmp_path, mine=reward('1 / 0', ''))}/mine.py:Mine"
    build_part("reward", spec, "")
    write(tmp_path, mine=reward("2 / 0  # as edited", "\n\n"))
    built = build_part("reward", spec, "")
    write(tmp_path, mine="# edited again, and not loaded\n")
    linecache.checkcache()
    with pytest.raises(ZeroDivisionError) as caught:
        built.score(PROMPT, "")
    assert "return 2 / 0  # as edited" in "".join(traceback.format_exception(caught.value))


def test_a_sibling_that_comes_or_goes_is_seen(tmp_path):
    write(tmp_path, mine=reward("x", "try:\n    from helper import x\nexcept ImportError:\n    x = 0.0"))
    spec = f"{tmp_path}/mine.py:Mine"
    assert score(spec) == 0.0
    write(tmp_path, helper="x = 1.0")
    assert score(spec) == 1.0
    (tmp_path / "helper.py").unlink()
    assert score(spec) == 0.0


def test_a_file_that_failed_is_tried_again(tmp_path):
    spec = f"{write(tmp_path, mine=reward('helper.x', 'import helper'), helper='x = y')}/mine.py:Mine"
    assert "NameError" in refusal(spec)
    write(tmp_path, helper="x = 1.0")
    assert score(spec) == 1.0


def test_objects_of_a_plugin_are_pickled_within_a_run(tmp_path):
    write(
        tmp_path,
        mine=reward("1.0", "from helper import Verdict"),
        helper="""
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Verdict:
            right: bool
    """,
    )
    build_part("reward", f"{tmp_path}/mine.py:Mine", "")
    verdict = plugins.load(f"{tmp_path}/mine.py", "").Verdict(right=True)
    kept = pickle.dumps(verdict)
    write(tmp_path, helper=(tmp_path / "helper.py").read_text() + "\n# edited\n")
    assert plugins.load(f"{tmp_path}/mine.py", "").Verdict is not type(verdict)
    assert pickle.loads(kept) == verdict
