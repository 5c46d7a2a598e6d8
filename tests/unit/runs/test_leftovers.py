"""The folder of a run that failed to start is free again; what holds anything that was computed stays."""

from pathlib import Path

import pytest

from align.config import recipes, schema
from align.errors import UserError
from align.run.folder import remove_empty_run
from align.train import train


def built(folder: Path, prompts: str) -> schema.Recipe:
    (folder / "prompts.jsonl").write_text(prompts)
    return recipes.build(
        {
            "steps": 1,
            "task": {"name": "jsonl", "path": str(folder / "prompts.jsonl")},
            "reward": "match",
            "algorithm": "grpo",
            "model": {"path": str(folder / "no model")},
            "batch": {"prompts": 1},
            "workers": {"backend": "local"},
        }
    )


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ('{"prompt": 3}\n', "prompts.jsonl, line 1: prompt must be a string"),
        ('{"prompt": "2+2=", "answer": "4"}\n', "there is no model folder"),
    ],
)
def test_a_start_that_fails_leaves_no_folder(tmp_path, prompts, says):
    with pytest.raises(UserError, match=says):
        train(built(tmp_path, prompts), tmp_path / "runs" / "mine")
    assert not (tmp_path / "runs" / "mine").exists()


def test_a_folder_that_was_there_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError):
        train(built(tmp_path, '{"prompt": 3}\n'), tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize(
    ("file", "text", "stays"),
    [
        ("recipe.yaml", "steps: 1", False),
        ("initial/config.json", "{}", False),
        ("metrics.jsonl", "", False),
        ("metrics.jsonl", "{}\n", True),
        ("checkpoints/step_000001/driver.json", "{}", True),
        ("model/config.json", "{}", True),
    ],
)
def test_only_what_the_next_start_makes_again_is_removed(tmp_path, file, text, stays):
    run = tmp_path / "run"
    (run / file).parent.mkdir(parents=True)
    (run / file).write_text(text)
    remove_empty_run(run)
    assert (run / file).exists() == run.exists() == stays
