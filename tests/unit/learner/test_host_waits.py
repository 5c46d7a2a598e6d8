"""How often the host waits for a GPU, and what crosses to it, on a simulated device (in a process of its own)."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from helpers.models import tiny_model
from helpers.paths import TESTS


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """Of one micro-batch, of four, and of four that serve two updates."""
    folder = tiny_model(tmp_path_factory.mktemp("model"))
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "helpers.fakes.learner_on_device", folder, "10000,1", "40,1", "40,2"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-3:]]


def waits(part: dict) -> int:
    return sum(part["waits"].values())


def test_waits_do_not_grow_with_the_micro_batches(found: list[dict]):
    """But by transformers' own look for packed sequences, once a forward pass: the policy's and the reference's."""
    whole, cut, _ = found
    assert whole["micro-batches"] == 1 and cut["micro-batches"] == 4
    assert whole["loss"] == pytest.approx(cut["loss"], abs=1e-6), "the device computes"
    grown = Counter(cut["update"]["waits"]) - Counter(whole["update"]["waits"])
    assert grown.total() == 2 * 3 and all("learner/policy.py" in place for place in grown)
    assert waits(whole["update"]) <= 2 + 6
    for case in (whole, cut):
        assert waits(case["score"]) == 0, "with one update a batch nothing is computed before it"
        assert "to host" not in case["update"]["copied"]


def test_states_of_references_stay_on_the_device(found: list[dict]):
    """A batch that serves two updates is scored: [T] columns come back, no [T, H] states (32 wide here)."""
    tokens, hidden = 60, 32
    columns = found[2]["score"]["copied"]["to host"] / (4 * tokens)
    assert columns < 4 < hidden and found[2]["kl"] >= 0
