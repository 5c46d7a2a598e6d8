"""Where the time of a command goes."""

import json
import re
import time
from pathlib import Path

from helpers.bandit_run import start
from rich.console import Console

from align.run.phases import Phases


def test_the_wall_time_is_the_command_s_and_each_phase_is_shown_as_it_starts():
    now, shown = [107.0], []
    phases = Phases(began=100.0, show=shown.append, clock=lambda: now[0])
    for name in ("data", "engines", "data"):
        with phases.of(name):
            assert shown[-1].endswith(f"s  {name}")
            now[0] += 2
    assert phases.seconds == {"imports": 7.0, "data": 4.0, "engines": 2.0} and phases.wall() == 13.0
    assert shown[1] == "   9.0 s  engines"
    assert Phases(clock=lambda: now[0]).seconds == {}


def test_a_summary_has_the_phases(tmp_path: Path, capsys):
    began = time.monotonic()
    summary = start(tmp_path, steps=1, evaluation={"every": 0, "problems": 1})
    took = time.monotonic() - began
    assert list(summary["phases"]) == [
        "data",
        "initial model",
        "imports",
        "learner and engine",
        "first evaluation",
        "training",
        "export",
        "last evaluation",
    ]
    assert 0 < sum(summary["phases"].values()) <= summary["wall_seconds"] <= took
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["phases"].keys() == summary["phases"].keys()
    printed = capsys.readouterr()
    assert "learner and engine" not in printed.err, "which is no terminal"
    assert re.search(r"^time: .*training \d+\.\d s", printed.out, re.M)


def test_a_phase_is_shown_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("align.run.phases._console", Console(force_terminal=True, stderr=True, color_system=None))
    with Phases().of("learner and engine"):
        assert capsys.readouterr().err.endswith("s  learner and engine\n")
