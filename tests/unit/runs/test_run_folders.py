"""The folder of a run: its lock, a second start after one without a checkpoint, and checkpoints by time."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.bandit_run import kept, start

from align.config.schema import Checkpoint
from align.errors import UserError
from align.learner.learner import Learner
from align.run.due import Due
from align.run.folder import restartable
from align.run.lock import locked


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run), pytest.raises(UserError, match=rf"^{run}: another run is at work in this folder \(process \d+ on .*\): wait for it"):
        start(tmp_path)
    assert [p.name for p in run.iterdir()] == [".lock"], "the second run leaves the folder as it is"


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path: Path):
    held = "import fcntl, os, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); f.write('dead'); f.flush(); os._exit(1)"
    subprocess.run([sys.executable, "-c", held, tmp_path / ".lock"], check=False)
    assert (tmp_path / ".lock").read_text() == "dead"
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith("process ")


def test_a_file_system_without_locks_locks_nothing(tmp_path: Path, monkeypatch):
    def unsupported(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path):
        pass


class Killed(BaseException):
    """Ends a run without a checkpoint."""


@pytest.fixture
def dead(tmp_path: Path, monkeypatch) -> Path:
    """What a run leaves that is killed before its first checkpoint."""

    def update(self, *args):
        self.whole = False
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(Learner, "update", update)
        with pytest.raises(Killed):
            start(tmp_path, evaluation={"every": 0, "problems": 1})
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size
    return tmp_path


def test_a_folder_without_a_checkpoint_can_be_started_again(dead: Path, capsys):
    before = (dead / "run" / "metrics.jsonl").read_text()
    start(dead, steps=1)
    assert "ended before its first checkpoint; what it left is in earlier_1, and this run starts anew" in capsys.readouterr().out
    assert (dead / "run" / "earlier_1" / "metrics.jsonl").read_text() == before
    assert kept(dead) == ["step_000001"]
    with pytest.raises(UserError, match="is not empty"):
        start(dead, steps=1)


def test_resuming_it_says_how_to_start(dead: Path):
    with pytest.raises(UserError, match=r"holds no checkpoint, so there is nothing to continue: .*start it again without --resume"):
        start(dead, resume=True)


@pytest.mark.parametrize(
    ("names", "starts"),
    [
        ([], True),
        ([".lock", "history.jsonl", "plugins", "earlier_1"], True),
        (["recipe.yaml", "metrics.jsonl"], True),
        (["recipe.yaml", "checkpoints/unfinished_000001"], True),
        (["recipe.yaml", "checkpoints/step_000001"], False),
        (["recipe.yaml", "checkpoints/damaged_000001"], False),
        (["recipe.yaml", "summary.json"], False),
        (["recipe.yaml", "model"], False),
        (["notes.txt"], False),
    ],
)
def test_which_folders_a_run_may_start_in(names: list[str], starts: bool, tmp_path: Path):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    assert restartable(tmp_path) == starts


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"every": 0, "minutes": None}, []),
        ({"every": 4, "minutes": None}, [4, 8]),
        ({"every": 0, "minutes": 10.0}, [3, 6, 9]),
        ({"every": 4, "minutes": 10.0}, [3, 4, 7, 8]),
    ],
)
def test_checkpoints_by_steps_and_by_time(options: dict, at: list[int]):
    """With steps of four minutes."""
    time = [0.0]
    due, saved = Due(Checkpoint(**options), lambda: time[0]), []
    for done in range(1, 10):
        time[0] += 240
        if due.after(done):
            saved.append(done)
            time[0] += 1000  # saving is not training
            due.saved()
    assert saved == at


def test_a_run_saves_by_time(tmp_path: Path):
    start(tmp_path, steps=3, checkpoint={"minutes": 1e-9, "keep": 9})
    assert kept(tmp_path) == ["step_000001", "step_000002", "step_000003"]
