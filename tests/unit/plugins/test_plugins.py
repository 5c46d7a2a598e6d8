"""Plugins of several files: which module an import means, what travels, what an edit changes, and what is said when one is missing."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugins.several import PROMPT, refusal, reward, score, write
from typer.testing import CliRunner

from align import cli
from align.config import yaml_files
from align.config.nodes import build_part, plugins_of
from align.plugins import files


@pytest.fixture(autouse=True)
def python_is_left_alone():
    """No plugin changes where others import from."""
    paths, finders = list(sys.path), list(sys.meta_path)
    names = {name for name in sys.modules if not name.startswith("align_plugin_")}
    yield
    assert sys.path == paths and sys.meta_path == finders
    added = {name for name in sys.modules if not name.startswith("align_plugin_")} - names
    assert not added & {"helper", "utils", "mypkg", "mine", "lib", "tools", "inner", "sub"}


# Which module an import means

FOUND = "helper = type('', (), {'x': x})"
IMPORTS = [
    "import helper",
    "import helper as h; helper = h",
    f"from helper import x; {FOUND}",
    "from . import helper",
    f"from .helper import x; {FOUND}",
    f"from helper import *; {FOUND}",
]


@pytest.mark.parametrize("line", IMPORTS)
@pytest.mark.parametrize("package", [False, True])
def test_a_file_imports_the_one_beside_it(tmp_path, line, package):
    write(tmp_path, parts__mine=reward("helper.x", line), parts__helper="x = 3.0")
    if package:
        write(tmp_path, parts__init="")
    assert score(f"{tmp_path}/parts/mine.py:Mine") == 3.0


@pytest.mark.parametrize("line", [line for line in IMPORTS if "*" not in line])
def test_an_import_in_a_function_is_one_too(tmp_path, line):
    mine = f"class Mine:\n    def score(self, prompt, response):\n        {line}\n        return helper.x\n"
    write(tmp_path, mine=mine, helper="x = 3.0")
    built = build_part("reward", f"{tmp_path}/mine.py:Mine", "")
    (tmp_path / "helper.py").unlink()
    assert built.score(PROMPT, "") == 3.0


@pytest.mark.parametrize("spec", ["mypkg:Mine", "mypkg/__init__.py:Mine", "mypkg/sub.py:Mine", "mypkg/inner/deep.py:Mine"])
def test_a_package_imports_as_python_would(tmp_path, spec):
    write(
        tmp_path,
        mypkg__init="from .sub import Mine",
        mypkg__sub="import mypkg.inner.deep as deep\nfrom mypkg.inner.deep import Mine",
        mypkg__inner__init="depth = 1.0",
        mypkg__inner__deep=reward("depth + x + y", "from . import depth\nfrom ..tools import x\nfrom beside import y"),
        mypkg__tools="x = 10.0",
        beside="y = 100.0",
    )
    assert score(f"{tmp_path}/{spec}") == 111.0


def test_a_package_finds_its_modules_by_name_at_run_time(tmp_path):
    write(
        tmp_path,
        mypkg__init=reward(
            "len(found)",
            """
import importlib, pkgutil
found = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
""",
        ),
        mypkg__one="",
        mypkg__two="",
        mypkg__inner__init="",
    )
    assert score(f"{tmp_path}/mypkg:Mine") == 3


def test_a_module_is_one_however_it_is_imported(tmp_path):
    imports = "import lib.a\nfrom lib import a\nimport lib.a as b\nfrom .lib import a as c"
    write(
        tmp_path,
        mine=reward("float(a is b is c is lib.a)", imports),
        lib__a="import other\nassert not hasattr(other, 'seen')\nother.seen = True",
        other="",
    )
    assert score(f"{tmp_path}/mine.py:Mine") == 1.0


def test_two_folders_have_their_own_utils(tmp_path):
    mine = reward("utils.x", "import utils")
    write(tmp_path, a__mine=mine, a__utils="x = 1.0", b__mine=mine, b__utils="x = 2.0")
    assert [score(f"{tmp_path}/{folder}/mine.py:Mine") for folder in "abab"] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["json", "torch", "math", "wandb", "types"])
def test_a_file_called_like_a_library_is_the_plugins_alone(tmp_path, name):
    write(tmp_path, mine=reward("ours", f"from {name} import ours\nimport csv, dataclasses"), **{name: "ours = 5.0"})
    before = sys.modules.get(name)
    assert score(f"{tmp_path}/mine.py:Mine") == 5.0
    assert sys.modules.get(name) is before


def test_a_file_called_like_a_library_may_import_it(tmp_path):
    write(tmp_path, json=reward("float(loads('7'))", "from json import loads"))
    assert score(f"{tmp_path}/json.py:Mine") == 7.0


def test_inside_a_package_an_absolute_name_is_the_library(tmp_path):
    write(tmp_path, mypkg__init="", mypkg__math="x = 1.0", mypkg__sub=reward("math.floor(2.5) + x", "import math\nfrom .math import x"))
    assert score(f"{tmp_path}/mypkg/sub.py:Mine") == 3.0


def test_a_folder_called_like_a_library_is_none(tmp_path):
    write(tmp_path, mine=reward("float(hasattr(tool, 'main'))", "from json import tool"), json__tool="")
    assert score(f"{tmp_path}/mine.py:Mine") == 1.0


def test_align_is_never_a_second_one(tmp_path):
    write(
        tmp_path,
        mine=reward("float(Reward is not object)", "from align.rewards import Reward"),
        align__init="",
        align__rewards="Reward = object",
    )
    assert score(f"{tmp_path}/mine.py:Mine") == 1.0


def test_annotations_are_what_the_file_says(tmp_path):
    write(tmp_path, mine=reward("float(typed.__annotations__['x'] is int)", "def typed(x: int): ..."))
    assert score(f"{tmp_path}/mine.py:Mine") == 1.0


def test_files_whose_names_are_no_python_names(tmp_path):
    write(tmp_path, mine=reward("x", "from helper import x"), helper="x = 3.0")
    for name in ("my-reward", "2nd", "a.b", "helper2"):
        (tmp_path / "mine.py").rename(tmp_path / f"{name}.py")
        assert score(f"{tmp_path}/{name}.py:Mine") == 3.0
        (tmp_path / f"{name}.py").rename(tmp_path / "mine.py")
    write(tmp_path, mine__init="")
    assert score(f"{tmp_path}/mine.py:Mine") == 3.0


def test_parts_of_one_folder_share_its_modules(tmp_path):
    write(
        tmp_path,
        a=reward("helper.seen.append('a') or len(helper.seen)", "import helper"),
        b=reward("helper.seen.append('b') or len(helper.seen)", "import helper"),
        helper="seen = []",
    )
    assert [score(f"{tmp_path}/{name}.py:Mine") for name in "aba"] == [1, 2, 3]


def test_modules_that_import_each_other(tmp_path):
    write(tmp_path, mine=reward("other.x()", "y = 4.0\nimport other"), other="import mine\ndef x():\n    return mine.y")
    assert score(f"{tmp_path}/mine.py:Mine") == 4.0


def test_the_recipe_and_the_command_line_name_a_folder(tmp_path, monkeypatch):
    write(tmp_path, lab__mypkg__init=reward("1.0"))
    (tmp_path / "lab" / "r.yaml").write_text("reward: ./mypkg:Mine\nother: {path: org/name:tag, module: mypkg.sub:Mine}\n")
    monkeypatch.chdir(tmp_path)
    node = yaml_files.load(tmp_path / "lab" / "r.yaml", ["task=./lab/mypkg:Mine"])
    assert node == {
        "reward": f"{tmp_path}/lab/mypkg:Mine",
        "task": f"{tmp_path}/lab/mypkg:Mine",
        "other": {"path": "org/name:tag", "module": "mypkg.sub:Mine"},
    }
    assert score("./lab/mypkg:Mine") == 1.0


# What is said


def test_a_sibling_that_is_missing_is_named_with_its_importer_and_what_was_looked_for(tmp_path):
    write(tmp_path, mine=reward("1.0", "import helper"), helper="x = 1.0\nimport absent")
    told = refusal(f"{tmp_path}/mine.py:Mine")
    assert told.startswith(f"reward: the plugin {tmp_path}/mine.py failed to import\n")
    assert f'File "{tmp_path}/mine.py", line 1' in told and f'File "{tmp_path}/helper.py", line 2' in told and told.count("File ") == 2
    assert told.endswith(
        f"ModuleNotFoundError: No module named 'absent'; looked for {tmp_path}/absent.py and "
        f"{tmp_path}/absent/__init__.py, and for an installed package"
    )
    assert "align_plugin" not in told


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("from .absent import x", "No module named '.absent'; looked for {0}/absent.py and {0}/absent/__init__.py"),
        ("from . import absent", "cannot import name 'absent' from '.': looked for {0}/absent.py and {0}/absent/__init__.py"),
        ("from helper import absent", "cannot import name 'absent' from 'helper': {0}/helper.py has not defined it"),
        ("import pkg.absent", "No module named 'pkg.absent'; looked for {0}/pkg/absent.py and {0}/pkg/absent/__init__.py"),
        (
            "from pkg import absent",
            "cannot import name 'absent' from 'pkg': {0}/pkg/__init__.py has not defined it; looked for "
            "{0}/pkg/absent.py and {0}/pkg/absent/__init__.py",
        ),
        ("from .. import absent", "attempted relative import beyond top-level package"),
        (
            "from align.weight_sync.packing import unpack",
            "align.weight_sync.packing is called align.weight_sync.flattening, and its `unpack` is `unflatten`",
        ),
        (
            "import align.weight_sync.packing",
            "align.weight_sync.packing is called align.weight_sync.flattening, and its `unpack` is `unflatten`",
        ),
        ("from align.core.credit import sequence_log_ratio", "sequence_log_ratio is called align.core.credit.sequence_sum"),
    ],
)
def test_every_way_to_import_what_is_missing_is_told_by_its_files(tmp_path, line, says):
    write(tmp_path, mine=reward("1.0", line), helper="", pkg__init="")
    told = refusal(f"{tmp_path}/mine.py:Mine")
    _, second = told.split("\n")
    assert second.startswith(f"{tmp_path}/mine.py:1: ") and second.endswith(says.format(tmp_path)), second
    write(tmp_path, mine=reward("2.0", f"try:\n    {line}\nexcept ImportError:\n    pass"))
    assert score(f"{tmp_path}/mine.py:Mine") == 2.0


def test_a_folder_that_is_no_package_is_told(tmp_path):
    write(tmp_path, parts__mine=reward("1.0"))
    assert "has no __init__.py, so it is no package" in refusal(f"{tmp_path}/parts:Mine")
    assert "there is no plugin file" in refusal(f"{tmp_path}/absent:Mine")


def test_a_sibling_with_a_syntax_error_or_another_encoding_is_named(tmp_path):
    write(tmp_path, mine=reward("1.0", "import helper"), helper="x = = 1")
    assert f"{tmp_path}/helper.py:1: SyntaxError" in refusal(f"{tmp_path}/mine.py:Mine")
    (tmp_path / "helper.py").write_bytes("x = 'é'".encode("latin-1"))
    assert f"{tmp_path}/helper.py cannot be read" in refusal(f"{tmp_path}/mine.py:Mine")
    (tmp_path / "helper.py").write_bytes("# coding: latin-1\nx = 'é'".encode("latin-1"))
    write(tmp_path, mine=reward("float(helper.x == 'é')", "import helper"))
    assert score(f"{tmp_path}/mine.py:Mine") == 1.0


def test_a_plugin_too_large_to_send_is_refused(tmp_path, monkeypatch):
    write(tmp_path, mypkg__init=reward("1.0"), **{f"mypkg__m{i}": "" for i in range(4)}, **{f"unrelated{i}": "" for i in range(20)})
    monkeypatch.setattr(files, "MOST_FILES", 5)
    assert score(f"{tmp_path}/mypkg:Mine") == 1.0
    write(tmp_path, mypkg__one_more="")
    assert "more than 5 files" in refusal(f"{tmp_path}/mypkg:Mine") and str(tmp_path) in refusal(f"{tmp_path}/mypkg:Mine")
    monkeypatch.setattr(files, "MOST_FILES", 200)
    monkeypatch.setattr(files, "MOST_BYTES", 1_000_000)
    write(tmp_path, mypkg__one_more=f"x = '{'a' * 1_000_000}'")
    assert "1 MB" in refusal(f"{tmp_path}/mypkg:Mine")


# What travels

ELSEWHERE = """
import pickle, sys
from align import plugins
from align.config import nodes, parts
from align.types import Prompt
sent, node = pickle.load(open(sys.argv[1], "rb"))
plugins.install(sent)
built = nodes.build_part("reward", node, "")
print(built.score(Prompt(id="p", text="1", token_ids=(1,)), ""), type(built).__module__, parts.location(type(built)))
try:
    built.fail()
except ZeroDivisionError:
    import traceback
    print(traceback.format_exc())
"""


def test_all_of_it_travels_as_text(tmp_path):
    folder = write(
        tmp_path / "lab",
        mine="""
            import helper
            class Mine:
                def score(self, prompt, response):
                    from pkg import load
                    return helper.x + load("one") + load("two")
                def fail(self):
                    return 1 / 0  # the line itself
            """,
        helper="from later import x",
        later="x = 1.0",
        unrelated="",
        pkg__init="import importlib\ndef load(name):\n    return importlib.import_module(f'.{name}', __name__).x\n",
        pkg__one="x = 10.0",
        pkg__two="from .inner import x",
        pkg__inner__init="x = 100.0",
        pkg__venv__lib__dotted="",
    )
    (folder / "pkg" / "not-a-module").mkdir()
    (folder / "pkg" / "not-a-module" / "m.py").write_text("")
    (folder / "pkg" / "data.json").write_text("{}")
    node = {"name": f"{folder}/mine.py:Mine"}
    built = build_part("reward", node, "")
    sent = plugins_of({"reward": built})
    assert sorted(Path(file.path).relative_to(folder).as_posix() for p in sent for file in p.files.values()) == [
        "helper.py",
        "later.py",
        "mine.py",
        "pkg/__init__.py",
        "pkg/inner/__init__.py",
        "pkg/one.py",
        "pkg/two.py",
        "pkg/venv/lib/dotted.py",
    ]
    (tmp_path / "sent").write_bytes(pickle.dumps((sent, node)))
    folder.rename(tmp_path / "gone")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path / "sent"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"111.0 {type(built).__module__} {folder}/mine.py:2"
    assert f'File "{folder}/mine.py", line 7, in fail' in done.stdout and "return 1 / 0  # the line itself" in done.stdout
    assert built.score(PROMPT, "") == 111.0  # here, where the folder is gone as well


def test_only_what_a_recipe_was_built_from_travels(tmp_path):
    write(tmp_path, a=reward("1.0"), b__mine=reward("2.0"))
    one, other = (build_part("reward", f"{tmp_path}/{name}.py:Mine", "") for name in ("a", "b/mine"))
    assert [p.root for p in plugins_of({"reward": one})] == [str(tmp_path)]
    assert [p.root for p in plugins_of({"x": {"reward": other}})] == [f"{tmp_path}/b"]
    assert plugins_of(build_part("reward", "countdown_exact", "")) == ()


# The command line


def test_check_takes_a_plugin_of_several_files(tmp_path, monkeypatch):
    write(
        tmp_path,
        pkg__init="from .mine import Mine",
        pkg__mine='''
        from .helper import length

        class Mine:
            """Length."""
            scale: float = 0.01

            def score(self, prompt, response):
                return self.scale * length(response)
    ''',
        pkg__helper="def length(text):\n    return len(text)\n",
    )
    monkeypatch.chdir(tmp_path)
    for spec in ("./pkg/mine.py:Mine", "./pkg:Mine"):
        result = CliRunner().invoke(cli.app, ["check", spec, "scale=0.5"])
        assert result.exit_code == 0, result.output
