"""The kernels in Triton's interpreter, in processes of their own: one for every third file, so that each has a time limit of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("interpreted/test_*.py"))
PROCESSES = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.mark.parametrize("first", range(PROCESSES))
def test_the_kernels_in_the_interpreter(first: int, cache: Path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "ALIGN_KERNELS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "--durations=5", "-p", "no:cacheprovider", *map(str, FILES[first::PROCESSES])]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
