"""The tests that need a GPU, but for the compile backend's, which take minutes (`make gpu-test-compile`)."""

from __future__ import annotations

import pytest

from gpu_check.findings import Findings

TESTS = {"cuda": "tests/kernels/gpu", "cpu": "tests/gpu_check/test_table.py"}
"""A CPU can run none of those: a rehearsal takes what is short."""


def run(found: Findings, device: str) -> None:
    recorder = Recorder(found)
    code = pytest.main([TESTS[device], "-k", "not compile", "-p", "no:cacheprovider", "--durations=10"], plugins=[recorder])
    found.put("ended with", code.name)
    if code != pytest.ExitCode.OK and not found.failed:
        found.fail("pytest", f"pytest ended with {code.name}: see gpu_tests.log")


class Recorder:
    """A pytest plugin: counts as the tests end, and the last lines of each that fails."""

    def __init__(self, found: Findings):
        self._found, self._counts = found, {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test has three reports; its setup and teardown count where they fail.
        if report.when != "call" and report.passed:
            return
        self._counts[report.outcome] += 1
        self._found.put("tests", self._counts)
        if report.failed:
            self._found.fail(report.nodeid, report.longreprtext)
