"""A checkpoint is hashed while the run goes on, and is whole once that is done."""

import errno
import threading
from pathlib import Path

import pytest
from helpers.bandit_run import kept, start

from align import manifest
from align.errors import WriteFailed
from align.learner.learner import Learner
from align.run.checkpoints import Saver

ENTRIES = manifest.entries


class Held:
    """Hashing that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.began, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(manifest, "entries", self)

    def __call__(self, folder: Path):
        if folder.name.startswith("unfinished_"):
            self.began.set()
            assert self.go.wait(30)
        return ENTRIES(folder)


def test_the_next_step_does_not_wait_for_the_hashes(tmp_path: Path, monkeypatch):
    held, update, seen = Held(monkeypatch), Learner.update, {}

    def watched(self: Learner, batch, step: int):
        if step == 2:
            assert held.began.wait(30)
            seen[step] = kept(tmp_path)
            held.go.set()
        return update(self, batch, step)

    monkeypatch.setattr(Learner, "update", watched)
    start(tmp_path, checkpoint={"every": 2})
    assert seen == {2: ["unfinished_000002"]}
    assert kept(tmp_path) == ["step_000002", "step_000004"], "a run that ends waits"


def test_a_run_that_is_stopped_waits_for_the_checkpoint_before(tmp_path: Path, monkeypatch):
    """The update is cut short, so that no other can be saved."""
    held, update = Held(monkeypatch), Learner.update

    def stopped(self: Learner, batch, step: int):
        found = update(self, batch, step)
        if step == 2:
            threading.Timer(0.2, held.go.set).start()
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Learner, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, checkpoint={"every": 2})
    assert kept(tmp_path) == ["step_000002"]


def test_hashes_that_cannot_be_written_stop_the_run_and_leave_no_folder(tmp_path: Path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(manifest, "write", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(
        WriteFailed, match=r"the checkpoint .*step_000001 cannot be written: No space left on device; free some space, then"
    ):
        start(tmp_path, checkpoint={"every": 1})
    assert kept(tmp_path) == []


def test_nothing_to_wait_for_is_no_error(tmp_path: Path):
    Saver(tmp_path, None).wait()
