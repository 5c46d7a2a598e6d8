"""Stages that fail, that are cut, that cannot run: what is left of them, and what the check says in the end."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from gpu_check.__main__ import main
from gpu_check.plan import LIMIT, STAGES, Stage
from gpu_check.runner import run, succeeded

MODULES = {
    "fine": """
def run(found, device):
    found.put("device", device)
    found.put("speed", {"GB/s": 1.5})
""",
    "half": """
def run(found, device):
    with found.case("first"):
        raise ValueError("of no use")
    with found.case("second"):
        found.put("second", 2)
""",
    "raises": """
def run(found, device):
    found.put("before", 1)
    raise KeyError("gone")
""",
    "dies": """
import os

def run(found, device):
    found.put("before", 1)
    print("the last words", flush=True)
    os._exit(3)
""",
    "sleeps": """
import subprocess, sys, time

def run(found, device):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found.put("child", child.pid)
    time.sleep(60)
""",
}


@pytest.fixture
def stages(tmp_path: Path, monkeypatch) -> dict[str, Stage]:
    package = tmp_path / "made_stages"
    package.mkdir()
    for name, source in MODULES.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]))
    return {name: Stage(name, 30.0, "", package="made_stages") for name in MODULES}


@pytest.fixture
def checked(stages, tmp_path: Path):
    """Run the named stages and return their results, which are those of results.json."""

    def check(*chosen: Stage, limit: float = 60.0) -> dict:
        results = run(chosen, "cpu", tmp_path / "out", limit, lambda _: None)
        assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
        return results

    return check


def test_findings_of_all_stages_are_merged(checked, stages):
    results = checked(stages["fine"], stages["raises"])
    assert list(results["stages"]) == ["fine", "raises"] and results["device"] == "cpu"
    fine = results["stages"]["fine"]
    assert (fine["state"], fine["found"], fine["failed"]) == ("passed", {"device": "cpu", "speed": {"GB/s": 1.5}}, {})
    raised = results["stages"]["raises"]
    assert raised["state"] == "failed" and raised["found"] == {"before": 1}
    assert raised["failed"]["the stage"].endswith("KeyError: 'gone'") and "raises.py" in raised["failed"]["the stage"]
    assert not succeeded(results)


def test_a_case_that_fails_leaves_the_next_one(checked, stages):
    half = checked(stages["half"])["stages"]["half"]
    assert half["state"] == "failed" and half["why"] == "failed: first" and half["found"] == {"second": 2}
    assert list(half["failed"]) == ["first"] and half["failed"]["first"].endswith("ValueError: of no use")


def test_a_process_that_dies_leaves_its_last_words(checked, stages):
    dead = checked(stages["dies"])["stages"]["dies"]
    assert dead["state"] == "failed" and dead["found"] == {"before": 1}
    assert dead["why"].startswith("its process ended with 3:") and dead["why"].endswith("the last words")


def test_a_stage_is_cut_at_its_limit_with_all_it_started(checked, stages):
    began = time.monotonic()
    slow = Stage("sleeps", 3.0, "", package="made_stages")
    results = checked(slow, stages["fine"])
    assert time.monotonic() - began < 30
    cut = results["stages"]["sleeps"]
    assert cut["state"] == "cut" and cut["why"] == "it reached its limit of 3 s" and not succeeded(results)
    assert results["stages"]["fine"]["state"] == "passed"
    assert ended(cut["found"]["child"])


def ended(process: int, seconds: float = 10.0) -> bool:
    """Whether it ends in this time: a signal takes a moment, and a process that has ended may wait for its parent to take notice."""
    status, until = Path(f"/proc/{process}/stat"), time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_no_stage_begins_after_the_limit_of_all(checked, stages):
    results = checked(stages["fine"], limit=1.0)
    assert results["stages"]["fine"]["state"] == "cut" and "no time was left" in results["stages"]["fine"]["why"]
    assert not succeeded(results)


def test_a_stage_without_its_package_is_not_run(checked):
    results = checked(Stage("fine", 30.0, "", needs=("sys", "nowhere_to_be_found"), package="made_stages"))
    assert results["stages"]["fine"]["state"] == "not run"
    assert results["stages"]["fine"]["why"] == "nowhere_to_be_found is missing"
    assert succeeded(results)


def test_results_of_an_earlier_check_are_not_taken_for_this_ones(checked, stages, tmp_path: Path):
    checked(stages["fine"])
    (tmp_path / "made_stages" / "fine.py").write_text("raise SystemExit(7)")
    again = checked(stages["fine"])["stages"]["fine"]
    assert again["state"] == "failed" and again["found"] == {}


def test_the_limits_leave_each_stage_its_time():
    assert sum(stage.limit for stage in STAGES) == LIMIT < 8 * 60


def test_the_command_ends_with_one_where_a_stage_failed(stages, tmp_path: Path, monkeypatch, capsys):
    for chosen, code in (("fine", 0), ("raises", 1)):
        monkeypatch.setattr("gpu_check.__main__.STAGES", tuple(stages.values()))
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--only", chosen, "--out", str(tmp_path / "out")])
        assert main() == code
        told = capsys.readouterr()
        assert told.out.startswith("stage ") and f"{chosen}: " in told.out
        assert "results.json" in told.err


def test_the_help_has_an_example(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "make gpu-check DEVICE=cpu" in capsys.readouterr().out
