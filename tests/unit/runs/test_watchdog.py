"""What hangs is noticed: by what earlier phases took, on a clock of the test."""

import threading
import time
from pathlib import Path

import pytest
from helpers.bandit_run import start

from align.run import watchdog
from align.run.watchdog import Watchdog
from align.workers.local import LocalWorkers
from align.workers.processes import write_stacks


class Workers:
    """Counts what the watchdog asks for."""

    def __init__(self):
        self.ended: list[str] = []

    def write_stacks(self, file: Path) -> None:
        write_stacks(None, file)

    def end_hanging(self, reason: str) -> str:
        self.ended.append(reason)
        return "it is ended"


@pytest.fixture
def watched(tmp_path: Path):
    notes, workers, now = [], Workers(), [0.0]
    dog = Watchdog(workers, tmp_path / "stacks", notes.append, clock=lambda: now[0])

    def phase(name: str, *checks: float) -> None:
        """A phase that is checked after these seconds, and ends with the last."""
        began = now[0]
        with dog.phase(name):
            for seconds in checks:
                now[0] = began + seconds
                dog.check()

    return phase, notes, workers, tmp_path / "stacks"


def test_the_first_of_a_name_has_no_limit(watched):
    phase, notes, workers, _ = watched
    phase("update", 1e6)
    phase("score", 1e6)
    assert notes == workers.ended == []


def test_a_line_at_three_times_and_the_end_at_ten_times_the_longest(watched):
    phase, notes, workers, folder = watched
    phase("update", 20)
    phase("update", 10)
    phase("update", 59, 61, 199)
    assert notes == ["`update` has taken 61 s, 20 s at most before; at 200 s it is taken to hang"]
    assert workers.ended == [] and not folder.exists()
    phase("generate", 1)
    phase("generate", 9, 11, 59, 61, 100, 125)
    assert len(notes) == 5 and len(workers.ended) == 2  # what hangs again after its end is ended again
    file = folder / "generate_1.txt"
    assert notes[2].endswith(f"{file} has the stack of every thread; it is ended")
    assert "test_watchdog.py" in file.read_text()


def test_a_phase_inside_another_is_a_sign_of_life(watched):
    phase, notes, _, _ = watched
    phase("evaluate", 0.1)
    phase("evaluate", 9)
    assert notes == []


def test_a_phase_that_raised_is_not_remembered(watched, tmp_path):
    dog = Watchdog(Workers(), tmp_path, print)
    with pytest.raises(ValueError), dog.phase("update"):
        raise ValueError
    assert dog._past == {} and dog._phase is None


def test_a_run_reports_a_step_that_hangs(tmp_path: Path, monkeypatch, capsys):
    for name, value in (("SLOW_SECONDS", 0.1), ("HANGS_SECONDS", 0.2), ("HANGS", 3.0), ("SLOW", 1.5), ("INTERVAL", 0.02)):
        monkeypatch.setattr(watchdog, name, value)
    generate, calls = LocalWorkers.generate, []

    def slow(self, *args):
        calls.append(1)
        if len(calls) == 3:
            time.sleep(0.6)
        return generate(self, *args)

    monkeypatch.setattr(LocalWorkers, "generate", slow)
    start(tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "`generate` hangs" in printed and "Ctrl-C stops the run" in printed
    assert "in slow" in (tmp_path / "run" / "stacks" / "generate_1.txt").read_text()
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog" and thread.is_alive() and time.sleep(0.1)]
