"""`align cp`: a copy of a shipped recipe is the same recipe, wherever it lies."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.config import yaml_files
from align.config.find import find_recipe, shipped_recipes
from align.inspect.headers import header
from align.tools.recipe_copy import copy


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cp(*arguments: str):
    return CliRunner().invoke(app, ["cp", *arguments], env={"COLUMNS": "300"})


def whole(file: Path) -> dict:
    """The recipe as plain data; another recipe in it by its file."""
    node = yaml_files.load(file)
    warm_start = node["model"].get("recipe")
    return node if warm_start is None else node | {"model": node["model"] | {"recipe": find_recipe(warm_start).resolve()}}


def test_every_copy_is_the_same_recipe_with_the_same_header():
    for name, shipped in shipped_recipes().items():
        target = copy(name, Path(f"copy of {name.replace('/', ' ')}.yaml"))
        assert whole(target) == whole(shipped), name
        assert header(target) == header(shipped), name
        assert ".." not in target.read_text().partition("base:")[2], name


def test_it_says_what_to_do_next_and_overwrites_nothing(here):
    result = cp("methods/copg")
    assert result.exit_code == 0 and (here / "copg.yaml").read_text().count("\nbase: countdown_grpo\n") == 1
    assert result.stdout == "written to copg.yaml\n  align explain copg.yaml\n  align train copg.yaml --out runs/copg\n"
    (here / "copg.yaml").write_text("steps: 3\n")
    again = cp("methods/copg")
    assert again.exit_code == 2 and "copg.yaml exists and is not overwritten" in again.stderr
    assert (here / "copg.yaml").read_text() == "steps: 3\n"


def test_the_file_may_be_a_folder_or_lack_its_suffix(here):
    (here / "my recipes").mkdir()
    assert "align train 'my recipes/copg.yaml'" in cp("methods/copg", "my recipes").stdout
    assert copy("countdown_k3.yaml", Path("mine")) == Path("mine.yaml")
    assert copy("countdown_sft") == Path("countdown_sft.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods/cop"], "did you mean 'methods/copg'?"),
        (["countdown_k3", "mine.txt"], "mine.txt is no YAML file"),
        (["countdown_k3", "nowhere/mine.yaml"], "nowhere/mine.yaml cannot be written: No such file or directory"),
        (["countdown_k3", "countdown_grpo.yaml"], "the copy's countdown_grpo would be countdown_grpo.yaml"),
        (["./own.yaml"], "own.yaml"),
    ],
)
def test_what_cannot_be_copied(here, arguments, message):
    (here / "own.yaml").write_text("steps: 3\n")
    result = cp(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert sorted(f.name for f in here.iterdir()) == ["own.yaml"]


def test_a_file_that_would_take_the_place_of_the_base_is_named(here):
    (here / "countdown_grpo.yaml").write_text("steps: 3\n")
    assert "the copy's countdown_grpo would be countdown_grpo.yaml" in cp("countdown_k3").stderr
    assert not (here / "countdown_k3.yaml").exists()


def test_a_recipe_of_the_users_own_is_not_copied(here):
    (here / "own.yaml").write_text("steps: 3\n")
    result = cp(str(here / "own.yaml"))
    assert result.exit_code == 2 and "does not come with align" in result.stderr
