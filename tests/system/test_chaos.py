"""Runs survive the end and the stop of their processes at random points.

ALIGN_CHAOS_RUNS=N disturbs N runs in one process twice each, and N/4 runs on Ray (at least one) four times each. ALIGN_CHAOS_SEED gives
other points.
"""

import os
from pathlib import Path

import pytest
import ray
from helpers import chaos

from align.workers.connect import QUIET

RUNS = int(os.environ.get("ALIGN_CHAOS_RUNS", "2"))
# Of this seed the smallest size has each signal, and on Ray each role, with one resume.
SEED = int(os.environ.get("ALIGN_CHAOS_SEED", "1546"))


@pytest.fixture(scope="module")
def address():
    """One cluster for all runs, which their drivers join as one that a user has started."""
    ray.init(address="local", include_dashboard=False, **QUIET)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.timeout(180 + 60 * RUNS)
def test_runs_survive_what_ends_and_stops_their_processes(address: str, tmp_path: Path, capsys):
    undisturbed, runs = chaos.Runs(tmp_path, address), []
    for number, (backend, disturbances) in enumerate(chaos.plan(RUNS, SEED)):
        runs.append(undisturbed.disturbed(number, backend, disturbances))
        if RUNS > 4:
            with capsys.disabled():
                print("", *runs[-1].outcomes, *runs[-1].wrong, sep="\n", flush=True)
    with capsys.disabled():
        print("", *(chaos.table(runs, backend) for backend in ("local", "ray")), sep="\n")
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    assert [run for run in runs if run.wrong] == [] and [o for o in outcomes if o.code is None] == []
    assert {True, False} == {outcome.code == 0 for outcome in outcomes}, "some survive, some are resumed"
