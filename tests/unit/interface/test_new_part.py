"""`align new`: the file it writes passes the checks of its kind, and the YAML it prints loads."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from align.cli import app
from align.config import registry
from align.config.docstrings import keys
from align.config.recipes import load
from align.testing.command import findings
from align.tools.new_part import FOLDER, new_part

BASES = {"critic": "countdown_ppo", "likelihood": "countdown_sft", "loss_weighting": "countdown_sft", "preference": "countdown_dpo"}
"""A recipe that can contain the part; for other kinds countdown_grpo."""
WITHOUT_KEYS = {"engine", "estimator"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*arguments: str):
    return CliRunner().invoke(app, ["new", *arguments], env={"COLUMNS": "300"})


@pytest.mark.parametrize("kind", registry.ROOMS)
def test_it_passes_the_checks_of_its_kind(kind):
    written = new_part(kind, "my_own_part")
    assert "keleton" not in written.file.read_text()
    found_kind, found = findings(written.part, [])  # the class says its kind itself
    assert found_kind == kind and {f.name: f.found for f in found if not f.passed} == {}
    cls = registry.resolve(kind, written.part, "test")
    assert bool(keys(cls)) or kind in WITHOUT_KEYS


@pytest.mark.parametrize("kind", registry.ROOMS)
def test_its_lines_of_a_recipe_load(kind, here):
    written = new_part(kind, "my_own_part")
    (here / "mine.yaml").write_text(f"base: {BASES.get(kind, 'countdown_grpo')}\n{written.usage}\n")
    recipe = load("mine.yaml")
    assert str(here / "my_own_part.py:MyOwnPart") in yaml.safe_dump([names(recipe)])


def names(built) -> list[str]:
    """The names of all parts in a recipe."""
    inner = built.values() if isinstance(built, dict) else vars(built).values() if hasattr(built, "__dataclass_fields__") else ()
    own = getattr(built, "recipe_name", None)
    return [name for value in inner for name in names(value)] + ([own] if own else [])


def test_there_is_one_for_every_kind():
    assert {f.stem for f in FOLDER.glob("*.py")} - {"__init__"} == registry.ROOMS.keys()


def test_it_prints_the_check_and_the_lines_of_a_recipe():
    result = new("reward", "my-reward")
    assert result.exit_code == 0
    assert result.stdout == (
        'written to my_reward.py\n  align check ./my_reward.py:MyReward\nin a recipe:\n  reward: "./my_reward.py:MyReward"\n'
    )
    assert new("reward", "MyHTTPReward").stdout.startswith("written to my_httpreward.py\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewards", "mine"], "there is no kind of part called rewards; did you mean 'reward'?"),
        (["reward", "my reward"], "'my reward' is no name of a Python file and class"),
        (["reward", "../mine"], "is no name of a Python file and class"),
        (["reward", "class"], "is no name of a Python file and class"),
        (["reward", "2nd"], "is no name of a Python file and class"),
        (["reward", "_"], "is no name of a Python file and class"),
        (["reward", "torch"], "torch is the name of an installed module"),
        (["reward", "taken"], "taken.py exists and is not overwritten"),
    ],
)
def test_what_is_refused_leaves_no_file(arguments, message):
    Path("taken.py").write_text("X = 1\n")
    result = new(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert [f.name for f in Path().iterdir()] == ["taken.py"] and Path("taken.py").read_text() == "X = 1\n"
