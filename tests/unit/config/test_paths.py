"""Where relative paths start: at the folder of the recipe file, or at the working directory for what no recipe of the user's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.config import find, nodes, recipes, yaml_files
from align.config.paths import absolute, absolute_files
from align.errors import UserError
from align.tasks._rows import read


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A folder with a recipe, and another one, in which the user works; both have rows and a folder `models/small`."""
    made = []
    for name in ("recipes", "work"):
        (tmp_path / name / "models" / "small").mkdir(parents=True)
        (tmp_path / name / "rows.jsonl").touch()
        made.append(tmp_path / name)
    monkeypatch.chdir(made[1])
    return made[0], made[1]


def test_a_recipes_paths_start_at_its_folder_and_overrides_at_the_working_directory(folders):
    here, work = folders
    (here / "mine.yaml").write_text("task: {name: jsonl, path: rows.jsonl, eval_path: models/small}\nmodel: {path: models/small}\n")
    node = yaml_files.load(here / "mine.yaml", ["task.eval_path=rows.jsonl"])
    assert node["task"]["path"] == str(here / "rows.jsonl") and node["model"]["path"] == str(here / "models/small")
    assert node["task"]["eval_path"] == str(work / "rows.jsonl")


def test_a_bases_paths_start_at_its_own_folder(folders):
    here, work = folders
    (here / "base.yaml").write_text("task: {name: jsonl, path: rows.jsonl}\n")
    (work / "mine.yaml").write_text(f"base: {here}/base.yaml\ntask: {{eval_path: rows.jsonl}}\n")
    assert yaml_files.load(work / "mine.yaml")["task"] == {
        "name": "jsonl",
        "path": str(here / "rows.jsonl"),
        "eval_path": str(work / "rows.jsonl"),
    }


def test_a_shipped_recipes_data_start_at_the_working_directory(folders, monkeypatch):
    here, work = folders
    monkeypatch.setattr(yaml_files, "shipped_folder", lambda: here)
    (here / "ours.yaml").write_text("task: {name: jsonl, path: rows.jsonl}\nmodel: {recipe: warm.yaml}\n")
    node = yaml_files.load(here / "ours.yaml")
    assert (node["task"]["path"], node["model"]["recipe"]) == (str(work / "rows.jsonl"), str(here / "warm.yaml"))
    assert find.shipped_folder() != here


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("owner/name", "owner/name"),
        ("models/small", "/x/models/small"),
        ("missing.jsonl", "/x/missing.jsonl"),
        ("./missing", "/x/missing"),
        ("../up", "/up"),
        ("/absolute", "/absolute"),
        ("", ""),
    ],
)
def test_which_words_are_paths(path, found, monkeypatch):
    monkeypatch.setattr("os.path.exists", lambda path: str(path) == "/x/models/small")
    assert absolute_files({"path": path}, Path("/x")) == {"path": found}


def test_lists_of_paths_and_words_of_the_users_own(folders):
    here, _ = folders
    node = {"reference": {"paths": ["models/small", "rows.jsonl"]}, "filter": {"path": "rows.jsonl"}, "label": "rows.jsonl"}
    assert absolute_files(node, here) == node | {"reference": {"paths": [str(here / "models/small"), str(here / "rows.jsonl")]}}


def test_a_resolved_recipe_means_the_same_elsewhere(folders, monkeypatch):
    here, _ = folders
    (here / "mine.yaml").write_text("steps: 1\ntask: {name: jsonl, path: rows.jsonl}\nalgorithm: sft\nmodel: {path: models/small}\n")
    node = nodes.resolved(recipes.load(here / "mine.yaml"))
    monkeypatch.chdir("/")
    assert nodes.resolved(recipes.build(node)) == node and node["task"]["path"] == str(here / "rows.jsonl")


@pytest.mark.parametrize("path", ["x" * 5000, "~no-such-user/x", "a\0b"])
def test_a_name_that_no_file_can_have_is_no_file(path, tmp_path):
    assert absolute(path, tmp_path) == path
    with pytest.raises(UserError, match="there is no such file or folder of data"):
        read(path)
