"""What a shell completes, asked as a shell asks: through the environment of the command."""

import importlib.metadata

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.config.find import shipped_recipes


def completed(line: str) -> list[str]:
    """Completions of the last word of a command line."""
    asked = {"_ALIGN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return CliRunner().invoke(app, [], prog_name="align", env=asked).stdout.split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipes_are_the_shipped_ones_and_the_files_of_the_folder(here):
    (here / "countdown_mine.yaml").touch()
    (here / "notes.txt").touch()
    (here / "inner").mkdir()
    (here / "inner" / "deep.yaml").touch()
    found = completed("align train countdown_")
    assert found[0] == "countdown_mine.yaml" and found[1:] == [n for n in shipped_recipes() if n.startswith("countdown_")]
    assert completed("align explain methods/cop") == ["methods/copg"]
    assert completed("align explain inner/") == ["inner/deep.yaml"]
    assert completed("align explain no_such") == []


def test_keys_are_those_that_the_recipe_and_its_bases_write(here):
    (here / "mine.yaml").write_text("base: countdown_grpo\nregularizers: {kl: {weighting: difficulty}, more: {coefficient: 0.1}}\n")
    assert completed("align train mine.yaml regularizers.kl.") == [
        f"regularizers.kl.{key}=" for key in ("divergence", "estimator", "coefficient", "weighting")
    ]
    assert completed("align train mine.yaml steps=3 regularizers.m") == ["regularizers.more.coefficient="]
    assert "batch.samples=" in completed("align explain countdown_k3 batch.")


@pytest.mark.parametrize("text", ["base: mine.yaml\nsteps: 3\n", "[1]", "{", "steps: 3\nbase: no_such_recipe\n", "\ufffe"])
def test_a_recipe_that_cannot_be_read_completes_nothing_or_what_it_writes(here, text):
    (here / "mine.yaml").write_text(text, encoding="utf-16")
    assert completed("align train mine.yaml s") == []
    (here / "mine.yaml").write_text(text)
    assert completed("align train mine.yaml s") in ([], ["steps="])
    assert completed("align train no_such_recipe s") == []


def test_explain_takes_a_second_recipe():
    assert completed("align explain countdown_grpo methods/cop") == ["methods/copg"]
    assert "batch.samples=" in completed("align explain countdown_grpo b")


def test_kinds():
    assert completed("align list re") == ["reduction", "reference", "regularizer", "reward"]


def test_the_version_is_that_of_the_package():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"align {importlib.metadata.version('align')}\n"
