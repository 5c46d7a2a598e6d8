"""What a stage of tests leaves: counts, and the last lines of each failure."""

from pathlib import Path
from types import SimpleNamespace

from gpu_check.findings import Findings
from gpu_check.stages.gpu_tests import Recorder


def report(when: str, outcome: str, name: str = "test_x", text: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        when=when, outcome=outcome, passed=outcome == "passed", failed=outcome == "failed", nodeid=name, longreprtext=text
    )


def test_a_test_counts_once_and_a_failed_setup_too(tmp_path: Path):
    found = Findings(tmp_path, "gpu_tests")
    recorder = Recorder(found)
    for one in (
        *(report(when, "passed") for when in ("setup", "call", "teardown")),
        report("setup", "failed", "test_no_memory", "E   out of memory"),
        report("teardown", "passed", "test_no_memory"),
        report("setup", "passed", "test_wrong"),
        report("call", "failed", "test_wrong", "line\n" * 50 + "E   1 != 2"),
        report("setup", "skipped", "test_other"),
    ):
        recorder.pytest_runtest_logreport(one)
    assert found.found == {"tests": {"passed": 1, "failed": 2, "skipped": 1}}
    assert found.failed["test_no_memory"] == "E   out of memory"
    assert found.failed["test_wrong"].count("\n") < 20 and found.failed["test_wrong"].endswith("1 != 2")
