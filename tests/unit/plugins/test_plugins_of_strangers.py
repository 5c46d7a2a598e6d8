"""A run folder from somebody else names code: the commands that read it say so, or refuse."""

from pathlib import Path

import pytest
import yaml
from helpers.bandit_run import node
from typer.testing import CliRunner

from align.cli import app

MARKED = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()

def judged(prompt, response):
    return 1.0
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The folder of a run whose reward leaves a mark when it is loaded."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "theirs.py").write_text(MARKED)
    mine = {"task": "countdown", "engine": "transformers", "reward": f"{tmp_path}/theirs.py:judged"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(node(tmp_path / "model") | mine))
    (run / "metrics.jsonl").touch()
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    return run


@pytest.mark.parametrize("command", ["eval", "explain", "audit"])
@pytest.mark.parametrize("allowed", [True, False])
def test_their_code_is_named_or_refused(command: str, allowed: bool, stranger: Path):
    what = stranger / "recipe.yaml" if command == "explain" else stranger
    found = CliRunner().invoke(app, [command, str(what), *([] if allowed else ["--no-plugins"])])
    code = f"{stranger.parent}/theirs.py:judged"
    assert (stranger.parent / "theirs.ran").exists() == allowed
    if allowed:
        assert found.stderr.splitlines()[0] == f"reward: loads code from outside of align: {code}"
    else:
        assert found.exit_code == 2
        assert found.stderr == (
            f"reward: names code from outside of align, {code}, and --no-plugins refuses it: read it, and leave out the option\n"
        )


def test_a_recipe_without_plugins_needs_no_option(stranger: Path):
    found = CliRunner().invoke(app, ["explain", "countdown_grpo", "--no-plugins"])
    assert found.exit_code == 0 and found.stderr == ""
